"use strict";
// Everything on this page comes from the two documents; nothing is loaded from anywhere else.

const find = (id) => document.getElementById(id);

/** An element: `make("p", {class: "x"}, "text", child)`. Text is never read as HTML. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== ""));
  return element;
}

const pretty = (value) => JSON.stringify(value, null, 2);
const anchor = (...parts) => parts.join("-").replace(/[^A-Za-z0-9.]+/g, "-");

/** What a `$ref` leads to, with what stands beside it. */
function resolve(schema, root) {
  let found = { ...schema };
  for (let steps = 0; found.$ref && steps < 16; steps++) {
    const { $ref, ...beside } = found;
    const target = $ref.slice(2).split("/").reduce((at, key) => at?.[key.replace(/~1/g, "/").replace(/~0/g, "~")], root);
    found = { ...target, ...beside };
  }
  return found;
}

function typeOf(schema, root) {
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.anyOf || schema.oneOf) {
    return (schema.anyOf ?? schema.oneOf).map((branch) => typeOf(resolve(branch, root), root)).join(" or ");
  }
  const types = [schema.type ?? "anything"].flat();
  if (types.includes("array") && schema.items) return `list of ${typeOf(resolve(schema.items, root), root)}`;
  return types.join(" or ");
}

const RULES = {
  minLength: "# characters or more", maxLength: "# at most", minItems: "# or more", maxItems: "# at most",
  minimum: "≥ #", maximum: "≤ #", exclusiveMinimum: "> #", exclusiveMaximum: "< #", multipleOf: "multiple of #",
  pattern: "#", format: "#", "x-unit": "in #",
};

function rules(schema) {
  const told = Object.entries(RULES)
    .filter(([rule]) => schema[rule] !== undefined && !(rule === "format" && /int/.test(schema.format)))
    .map(([rule, words]) => words.replace("#", schema[rule]));
  if (schema["x-open-enum"]) told.push("may grow");
  return told.join(" · ");
}

/** The fields of an object, or of what a list holds, down to where they end. */
function fields(schema, root, depth = 0) {
  const whole = resolve(schema, root);
  const branch = (whole.anyOf ?? whole.oneOf ?? []).map((part) => resolve(part, root)).find((part) => part.properties);
  const object = branch ?? (whole.items ? resolve(whole.items, root) : whole);
  if (!object.properties || depth > 5) return undefined;
  return make("ul", { class: "fields" }, Object.entries(object.properties).map(([name, property]) => {
    const field = resolve(property, root);
    return make("li", {},
      make("span", { class: "name" }, name),
      object.required?.includes(name) ? make("span", { class: "need", title: "required" }, "*") : "",
      make("span", { class: "type" }, typeOf(field, root)),
      make("span", { class: "rule" }, rules(field)),
      field.description ? make("span", { class: "said" }, field.description) : "",
      fields(field, root, depth + 1) ?? "");
  }));
}

/** A document of a schema: its example, or the plainest one. */
function example(schema, root, depth = 0) {
  const whole = resolve(schema, root);
  if (whole.examples?.length) return whole.examples[0];
  if (whole.const !== undefined) return whole.const;
  if (whole.enum) return whole.enum[0];
  const type = [whole.type].flat()[0];
  if (type === "object" && depth < 6) {
    return Object.fromEntries(Object.entries(whole.properties ?? {})
      .filter(([name]) => whole.required?.includes(name))
      .map(([name, property]) => [name, example(property, root, depth + 1)]));
  }
  if (type === "array") return whole.items ? [example(whole.items, root, depth + 1)] : [];
  if (type === "integer" || type === "number") return whole.minimum ?? 1;
  if (type === "boolean") return true;
  return type === "string" ? "text" : null;
}

function card(id, badge, name, words, ...content) {
  return make("details", { class: "card", id },
    make("summary", {}, badge ? make("span", { class: `badge ${badge}` }, badge) : "", make("code", {}, name), make("span", { class: "words" }, words)),
    make("div", {}, ...content));
}

function heading(title, words) {
  return make("h3", { class: "group" }, title, words ? make("small", {}, words) : "");
}

function copyable(text) {
  const button = make("button", { class: "small", type: "button", onclick: () => {
    navigator.clipboard?.writeText(text);
    button.textContent = "copied";
  } }, "copy");
  return make("div", { class: "line" }, make("pre", {}, text), button);
}

// --- HTTP ---

/** Sends what the form says and shows the answer as it comes. */
async function send(form, method, path, answer, stop) {
  const value = (field) => field.value.trim();
  const inputs = [...form.querySelectorAll("[data-in]")].filter((field) => value(field) !== "");
  const of = (place) => inputs.filter((field) => field.dataset.in === place);
  let url = path;
  for (const field of of("path")) url = url.replace(`{${field.name}}`, encodeURIComponent(value(field)));
  const query = new URLSearchParams(of("query").map((field) => [field.name, value(field)])).toString();
  const headers = Object.fromEntries(of("header").map((field) => [field.name, value(field)]));
  const body = of("body")[0]?.value;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const began = performance.now();
  answer.replaceChildren(make("p", {}, "…"));
  try {
    const response = await fetch(query ? `${url}?${query}` : url, { method, headers, body, signal: stop.signal });
    const took = Math.round(performance.now() - began);
    const text = make("pre", { class: "body" });
    const said = [...response.headers].filter(([name]) => !["date", "content-length"].includes(name));
    answer.replaceChildren(
      make("p", {}, make("span", { class: `status ${response.ok ? "good" : "poor"}` }, `${response.status} ${response.statusText}`),
        make("span", { class: "rule" }, `${took} ms`)),
      text,
      make("table", {}, said.map(([name, text]) => make("tr", {}, make("td", {}, make("code", {}, name)), make("td", {}, text)))));
    const live = response.headers.get("content-type")?.startsWith("text/event-stream");
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let whole = "";
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      whole += part.value;
      if (live) text.textContent = whole;
    }
    try { text.textContent = pretty(JSON.parse(whole)); } catch { text.textContent = whole; }
    if (!whole) text.remove();
  } catch (error) {
    if (error.name !== "AbortError") answer.replaceChildren(make("p", { class: "status poor" }, `no answer: ${error.message}`));
  }
}

function field(parameter, root) {
  const schema = resolve(parameter.schema ?? {}, root);
  return make("label", {},
    make("span", {}, make("span", { class: "name" }, parameter.name), parameter.required ? make("span", { class: "need" }, "*") : "",
      make("span", { class: "rule" }, parameter.in === "header" ? "header" : "")),
    make("input", { name: parameter.name, "data-in": parameter.in, placeholder: `${typeOf(schema, root)} ${rules(schema)}`.trim(), required: parameter.required ? "" : undefined }),
    parameter.description ? make("span", { class: "said" }, parameter.description) : "");
}

function operation(api, path, method, described) {
  const body = described.requestBody?.content["application/json"]?.schema;
  const answer = make("div", { class: "answer", "aria-live": "polite" });
  let stop;
  const form = make("form", { onsubmit: (event) => {
    event.preventDefault();
    stop?.abort();
    stop = new AbortController();
    send(form, method.toUpperCase(), path, answer, stop);
  } },
    (described.parameters ?? []).map((parameter) => field(parameter, api)),
    body ? make("textarea", { name: "body", "data-in": "body", spellcheck: "false", "aria-label": "Body" }, pretty(example(body, api))) : "",
    make("button", { class: "act", type: "submit" }, "Send"), answer);
  const responses = Object.entries(described.responses).map(([status, response]) => {
    const [type, content] = Object.entries(response.content ?? {})[0] ?? [];
    const kind = content?.schema.$ref?.split("/").pop() ?? type ?? "";
    return make("tr", {}, make("td", {}, make("code", {}, status)), make("td", {}, response.description), make("td", { class: "rule" }, kind));
  });
  const good = Object.entries(described.responses).find(([status]) => status.startsWith("2"))?.[1].content?.["application/json"];
  return card(anchor(method, path), method, path, described.summary,
    make("h4", {}, "Try it"), form,
    body ? make("h4", {}, "Body") : "", body ? fields(body, api) ?? "" : "",
    make("h4", {}, "Answers"), make("table", {}, responses),
    good ? fields(good.schema, api) ?? "" : "");
}

function http(api) {
  for (const tag of api.tags) {
    find("http").append(heading(tag.name, tag.description));
    const list = make("div", {}, make("h3", {}, tag.name));
    for (const [path, methods] of Object.entries(api.paths)) {
      for (const [method, described] of Object.entries(methods)) {
        if (!described.tags.includes(tag.name)) continue;
        find("http").append(operation(api, path, method, described));
        list.append(link(anchor(method, path), method, path));
      }
    }
    find("contents").append(list);
  }
}

// --- Events ---

// Where the command finds this service, if not where it looks by itself.
const here = location.origin === "http://127.0.0.1:8080" ? "" : ` --url ${location.origin}`;

function message(api, channel, name, described) {
  const shown = described.examples?.[0];
  const type = described.payload.$ref ? ` --type ${described.name}` : "";
  return card(anchor(channel, name), "", described.name, described.summary ?? "",
    described.deprecated ? make("p", { class: "need" }, described.description) : "",
    make("h4", {}, "Watch it"), copyable(`tidings tail ${channel}${type}${here}`),
    described.payload.$ref ? make("h4", {}, "Payload") : "", fields(described.payload, api) ?? "",
    shown ? make("h4", {}, "An example, as it lies on the topic") : "",
    shown ? make("pre", {}, `key: ${shown.headers.ce_subject}\n` + Object.entries(shown.headers).map(([k, v]) => `${k}: ${v}`).join("\n") + `\n\n${pretty(shown.payload)}`) : "",
    described.headers && !shown ? make("h4", {}, "Headers") : "", shown ? "" : fields(described.headers ?? {}, api) ?? "");
}

function events(api) {
  for (const [name, channel] of Object.entries(api.channels)) {
    const here = Object.values(api.operations).filter((operation) => operation.channel.$ref === `#/channels/${name}`);
    find("events").append(make("h3", { class: "group", id: anchor("channel", name) }, name));
    find("events").append(make("table", {}, here.map((operation) => make("tr", {},
      make("td", {}, make("span", { class: `badge ${operation.action}` }, operation.action)), make("td", {}, operation.summary)))));
    const list = make("div", {}, make("h3", {}, `topic ${name}`));
    for (const [key, reference] of Object.entries(channel.messages)) {
      const described = resolve(reference, api);
      find("events").append(message(api, name, key, described));
      list.append(link(anchor(name, key), "", described.name));
    }
    find("contents").append(list);
  }
}

function link(id, badge, text) {
  return make("a", { href: `#${id}` }, badge ? make("span", { class: `badge ${badge}` }, badge) : "", text);
}

function opened() {
  const target = find(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) target.open = true;
  target?.scrollIntoView();
}

function theme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
}

async function main() {
  find("theme").addEventListener("click", theme);
  addEventListener("hashchange", opened);
  const [openapi, asyncapi] = await Promise.all(["/openapi.json", "/asyncapi.json"].map((file) => fetch(file).then((answer) => answer.json())));
  const { title, version, description } = openapi.info;
  document.title = title;
  find("title").textContent = title;
  find("version").textContent = `version ${version}`;
  find("about").append(...description.split("\n\n").map((words) => make("p", {}, words)));
  http(openapi);
  events(asyncapi);
  opened();
  document.body.dataset.ready = "";
}

main();

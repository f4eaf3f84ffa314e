// AsyncAPI's own parser on the documents that are named: what it has against them, and what it found in them.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

for (const file of process.argv.slice(2)) {
  const { document, diagnostics } = await new Parser().parse(readFileSync(file, "utf8"));
  const wrong = diagnostics.filter(({ severity }) => severity < 2);
  const operations = document?.allOperations().all().map((operation) => operation.id()) ?? [];
  const messages = document?.allMessages().all().map((message) => message.id()) ?? [];
  console.log(JSON.stringify({ file, wrong, operations, messages }));
}

"""Judges documents by their schemas, with two validators that share no code.

Reads {"schemas": {NAME: SCHEMA}} and then a line {"schema": NAME, "document": TEXT} for each document; prints
one line each: {"python": true, "rust": true}.
"""

import json
import sys

import jsonschema
import jsonschema_rs

schemas = json.loads(sys.stdin.readline())["schemas"]
python = {name: jsonschema.Draft202012Validator(schema) for name, schema in schemas.items()}
rust = {name: jsonschema_rs.Draft202012Validator(schema) for name, schema in schemas.items()}
for line in sys.stdin:
    wanted = json.loads(line)
    name, document = wanted["schema"], json.loads(wanted["document"])
    print(json.dumps({"python": python[name].is_valid(document), "rust": rust[name].is_valid(document)}))

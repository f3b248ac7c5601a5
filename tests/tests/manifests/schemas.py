"""Holds objects against Kubernetes' own schemas, of every version from the oldest asked for on, and objects of kinds that
Kubernetes does not know against their definitions. Reads JSON, {"oldest", "objects", "definitions"}; prints JSON,
{"versions", "complaints"}."""

import functools
import json
import sys

import jsonschema
from packaging.version import Version
from kubernetes_validate import utils

# It would read the same megabytes again for each object.
utils.schema_contents = functools.lru_cache(None)(utils.schema_contents)


def strict(schema):
    """A structural schema that refuses fields it does not name: an API server with strict field validation does."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: strict(part) for name, part in schema.items()}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if schema.get("type") == "object" and "properties" in schema and not open_ended:
        schema["additionalProperties"] = False
    return schema


def definitions_by_kind(definitions):
    """The schema of each group, version and kind that is defined."""
    found = {}
    for definition in definitions:
        spec = definition["spec"]
        for version in spec["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            # Every object has these, whatever its definition says of them.
            schema["properties"].update(apiVersion={}, kind={}, metadata={})
            found[f'{spec["group"]}/{version["name"]}', spec["names"]["kind"]] = schema
    return found


def complaints(thing, ours, versions):
    name = f'{thing["kind"]} {thing["metadata"]["name"]}'
    schema = ours.get((thing["apiVersion"], thing["kind"]))
    if schema:
        for error in jsonschema.Draft4Validator(schema).iter_errors(thing):
            yield f"{name}: {error.json_path}: {error.message}"
        return
    for version in versions:
        try:
            utils.validate(thing, version, strict=True)
        except utils.ValidationError as error:
            path = ".".join(str(step) for step in error.absolute_path)
            yield f"{name}, Kubernetes {version}: {path}: {error.message}"
        except utils.SchemaNotFoundError as error:
            yield f"{name}: {error.message}"


def main():
    request = json.load(sys.stdin)
    oldest = Version(request["oldest"])
    versions = [version for version in utils.all_versions() if Version(version) >= oldest]
    versions = sorted(set(versions), key=Version)
    ours = definitions_by_kind(request["definitions"])
    found = [complaint for thing in request["objects"] for complaint in complaints(thing, ours, versions)]
    json.dump({"versions": versions, "complaints": found}, sys.stdout)


main()

"""``/docs``: the interface on one plain page, made of the OpenAPI description of the app.

FastAPI's own page loads Swagger UI from a content delivery network; here nothing leaves the
machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse
from jinja2 import Environment

_PAGE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ info.title }} {{ info.version }}</title>
<meta name="viewport" content="width=device-width">
<style>
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code { font-size: .95em } table { border-collapse: collapse; margin: .5rem 0 1rem }
td, th { border-bottom: 1px solid #8885; padding: .2rem .8rem .2rem 0; text-align: left;
vertical-align: top } h2 { margin-top: 2.5rem; font-size: 1.15rem }
</style></head><body>
<h1>{{ info.title }} {{ info.version }}</h1>
<p>Research software, not a medical device. The same as JSON: <a href="/openapi.json"
>/openapi.json</a>. Errors: <code>{"error": {"code", "message", "type", "param"}}</code>.</p>
{% for path, methods in paths.items() %}{% for method, route in methods.items() %}
<h2><code>{{ method | upper }} {{ path }}</code> {{ route.summary }}</h2>
<p>{{ route.description }}</p>
{% for kind, body in route.get("requestBody", {}).get("content", {}).items() %}
<p>Body: <code>{{ kind }}</code></p>
<table><tr><th>field</th><th>type</th><th></th></tr>
{% for name, field in body.schema.get("properties", {}).items() %}
<tr><td><code>{{ name }}</code>{{ " *" if name in body.schema.get("required", []) }}</td>
<td>{{ type_of(field) }}</td><td>{{ field.description }}</td></tr>
{% endfor %}</table>
{% endfor %}
{% for field, type, words in returned(route) %}
{% if loop.first %}<p>Returns</p><table>{% endif %}
<tr><td><code>{{ field }}</code></td><td>{{ type }}</td><td>{{ words }}</td></tr>
{% if loop.last %}</table>{% endif %}
{% endfor %}
{% for field in route.get("parameters", []) %}
<p><code>{{ field.name }}</code> ({{ field.in }}): {{ type_of(field.schema) }}</p>
{% endfor %}
{% endfor %}{% endfor %}
</body></html>
"""
)


def reference_routes(app: FastAPI) -> APIRouter:
    """Return the route that describes the others of an app."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/docs")
    async def reference() -> HTMLResponse:
        known = app.openapi()
        schemas = known["components"]["schemas"]

        def returned(route: dict[str, Any]) -> list[tuple[str, str, str]]:
            content = route["responses"].get("200", {}).get("content", {})
            schema = content.get("application/json", {}).get("schema", {})
            return list(_fields(schema, schemas))

        return HTMLResponse(_PAGE.render(**known, type_of=_type_of, returned=returned))

    return routes


def _fields(
    schema: dict[str, Any], schemas: dict[str, Any], before: str = ""
) -> Iterator[tuple[str, str, str]]:
    """Yield name, type and description of what an object holds, and of what is in that."""
    for one in schema.get("anyOf", [schema])[:1]:
        named = schemas.get(one.get("$ref", "").rpartition("/")[2], one)
        for name, field in named.get("properties", {}).items():
            inner = field.get("items", field)
            inner = next((part for part in inner.get("anyOf", []) if "$ref" in part), inner)
            listed = "[]" if "items" in field else ""
            kind = "" if "$ref" in inner else _type_of(field)
            yield f"{before}{name}", kind, field.get("description", "")
            if "$ref" in inner:
                yield from _fields(inner, schemas, f"{before}{name}{listed}.")


def _type_of(field: dict[str, Any]) -> str:
    """Return the type of a field in words."""
    if "enum" in field or "const" in field:
        return " | ".join(map(str, field.get("enum", [field.get("const")])))
    if "anyOf" in field:
        return " | ".join(_type_of(one) for one in field["anyOf"] if one.get("type") != "null")
    kind = str(field.get("type", "object"))
    return f"{kind} of {_type_of(field['items'])}" if "items" in field else kind

"use strict";
// Shows /openapi.json: operations, schemas, and a form that tries each. Text is only ever set as text.

const METHODS = ["get", "post", "put", "patch", "delete"];

function make(tag, text, props = {}, ...children) {
  const node = Object.assign(document.createElement(tag), props);
  if (text !== null) node.textContent = text;
  node.append(...children);
  return node;
}

function nameOf(ref) {
  return ref.split("/").pop();
}

function typeNode(schema) {
  if (!schema || Object.keys(schema).length === 0) return make("span", "anything");
  if (schema.$ref) return make("a", nameOf(schema.$ref), { href: `#schema-${nameOf(schema.$ref)}` });
  const choices = schema.anyOf || schema.oneOf;
  if (choices) return joined(choices.map(typeNode), " or ");
  if (schema.enum) return make("span", "one of " + schema.enum.map((each) => JSON.stringify(each)).join(", "));
  if (schema.type === "array") return make("span", "list of ", {}, typeNode(schema.items));
  if (schema.type === "object" && schema.additionalProperties)
    return make("span", "by name: ", {}, typeNode(schema.additionalProperties));
  const type = Array.isArray(schema.type) ? schema.type.join(" or ") : schema.type || "anything";
  return make("span", schema.format ? `${type} (${schema.format})` : type);
}

function joined(nodes, separator) {
  const whole = make("span", null);
  nodes.forEach((node, at) => whole.append(...(at ? [separator, node] : [node])));
  return whole;
}

function limits(schema) {
  const named = { minimum: "at least", maximum: "at most", minItems: "items: at least", maxItems: "items: at most",
    pattern: "pattern" };
  const told = Object.keys(named).filter((key) => key in schema).map((key) => `${named[key]} ${schema[key]}`);
  if ("default" in schema) told.push(`default ${JSON.stringify(schema.default)}`);
  return told.join("; ");
}

function fieldsTable(rows) {
  const head = make("tr", null, {}, ...["name", "type", "meaning"].map((each) => make("th", each)));
  const body = rows.map(({ name, schema, required, description }) => {
    const label = make("td", null, {}, make("code", name));
    if (required) label.append(make("span", " needed", { className: "need" }));
    const meaning = [description || schema.description, limits(schema)].filter(Boolean).join(" ");
    return make("tr", null, {}, label, make("td", null, {}, typeNode(schema)), make("td", meaning));
  });
  return make("table", null, {}, head, ...body);
}

function schemaRows(schema) {
  const required = new Set(schema.required || []);
  return Object.entries(schema.properties || {}).map(([name, each]) => ({
    name, schema: each, required: required.has(name) }));
}

function sample(schema, schemas, name) {
  if (schema.$ref) return sample(schemas[nameOf(schema.$ref)], schemas, name);
  if (schema.examples) return schema.examples[0];
  if ("default" in schema && schema.default !== null) return schema.default;
  if (schema.anyOf) return sample(schema.anyOf[0], schemas, name);
  if (schema.enum) return schema.enum[0];
  if (schema.type === "array") return name === "data" ? ["u1", "u2"] : [sample(schema.items || {}, schemas, name)];
  if (schema.type === "object") {
    const required = schema.required || [];
    const shown = Object.entries(schema.properties || {}).filter(([key]) => required.includes(key) || key === "data");
    return Object.fromEntries(shown.map(([key, each]) => [key, sample(each, schemas, key)]));
  }
  return { integer: 0, number: 0, boolean: false, string: "" }[schema.type] ?? null;
}

function answerRow([status, { description, content }]) {
  const types = Object.entries(content || {}).map(([type, { schema }]) =>
    schema ? make("span", `${type}: `, {}, typeNode(schema)) : make("span", type));
  return make("tr", null, {}, make("td", status), make("td", description), make("td", null, {}, joined(types, " or ")));
}

function answersNode(responses) {
  const all = Object.entries(responses);
  const good = all.filter(([status]) => status.startsWith("2"));
  const bad = all.filter(([status]) => !status.startsWith("2"));
  const failures = make("details", null, {}, make("summary", `Failures: ${bad.map(([status]) => status).join(", ")}`),
    make("table", null, {}, ...bad.map(answerRow)));
  return make("div", null, {}, make("table", null, {}, ...good.map(answerRow)), failures);
}

function bodyNodes(operation, schemas) {
  const schema = operation.requestBody.content["application/json"].schema;
  return [make("h3", "Body: ", {}, typeNode(schema)), fieldsTable(schemaRows(schemas[nameOf(schema.$ref)]))];
}

function tryForm(path, method, operation, schemas) {
  const form = make("form", null);
  const fields = (operation.parameters || []).map((parameter) => {
    const input = make("input", null, { name: parameter.name, required: Boolean(parameter.required) });
    form.append(make("label", `${parameter.name} (${parameter.in})`, {}, input));
    return { parameter, input };
  });
  let body = null;
  const media = operation.requestBody && operation.requestBody.content["application/json"];
  if (media) {
    body = make("textarea", null, { spellcheck: false });
    body.value = JSON.stringify(sample(media.schema, schemas, ""), null, 2);
    form.append(make("label", "body", {}, body));
  }
  const button = make("button", "Send", { type: "submit" });
  const status = make("p", "", { role: "status" });
  const shown = make("pre", "", { hidden: true });
  form.append(button, status, shown);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    const began = performance.now();
    try {
      const answer = await send(path, method, fields, body && body.value);
      const text = await answer.text();
      status.textContent = `${answer.status} ${answer.statusText}, ${(performance.now() - began).toFixed(1)} ms`;
      shown.textContent = pretty(text);
      shown.hidden = false;
    } catch (error) {
      status.textContent = String(error);
    }
    button.disabled = false;
  });
  return make("details", null, {}, make("summary", "Try it"), form);
}

function send(path, method, fields, body) {
  const headers = {};
  let target = path;
  for (const { parameter, input } of fields) {
    if (parameter.in === "path") target = target.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
    else if (input.value) headers[parameter.name] = input.value;
  }
  if (body !== null) headers["content-type"] = "application/json";
  return fetch(target, { method: method.toUpperCase(), headers, body, credentials: "same-origin" });
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function badge(method) {
  return make("span", method.toUpperCase(), { className: `method ${method}` });
}

function show(description) {
  const { info, paths, components } = description;
  const index = document.getElementById("index");
  const content = document.getElementById("content");
  document.getElementById("title").textContent = `${info.title} ${info.version}`;
  document.getElementById("about").textContent = info.description;
  content.replaceChildren();
  let tag = null;
  for (const [path, operations] of Object.entries(paths)) {
    for (const method of METHODS.filter((each) => each in operations)) {
      const operation = operations[method];
      if (operation.tags[0] !== tag) {
        tag = operation.tags[0];
        index.append(make("h2", tag));
      }
      index.append(make("a", null, { href: `#${operation.operationId}` }, badge(method), path));
      const section = make("section", null, { id: operation.operationId },
        make("h2", null, {}, badge(method), make("code", path)), make("p", operation.summary));
      if (operation.parameters.length) section.append(make("h3", "Parameters"), fieldsTable(operation.parameters));
      if (operation.requestBody) section.append(...bodyNodes(operation, components.schemas));
      section.append(make("h3", "Answers"), answersNode(operation.responses),
        tryForm(path, method, operation, components.schemas));
      content.append(section);
    }
  }
  index.append(make("h2", "Schemas"));
  for (const [name, schema] of Object.entries(components.schemas)) {
    index.append(make("a", name, { href: `#schema-${name}` }));
    content.append(make("section", null, { id: `schema-${name}` }, make("h2", name),
      make("p", schema.description || ""),
      schema.properties ? fieldsTable(schemaRows(schema)) : make("p", null, {}, typeNode(schema))));
  }
}

fetch("/openapi.json")
  .then((answer) => answer.json())
  .then(show)
  .catch((error) => { document.getElementById("state").textContent = `The description cannot be read: ${error}`; });

// JSON schemas: examples to start from, whether a text is JSON, and whether it fits.

const EXAMPLES = {
  person: {
    type: "object",
    properties: { name: { type: "string" }, age: { type: "integer", minimum: 0 } },
    required: ["name", "age"],
    additionalProperties: false,
  },
  "opinion of a text": {
    type: "object",
    properties: {
      opinion: { type: "string", enum: ["positive", "negative", "mixed"] },
      reason: { type: "string", maxLength: 120 },
    },
    required: ["opinion", "reason"],
    additionalProperties: false,
  },
  "list of steps": {
    type: "object",
    properties: {
      title: { type: "string" },
      steps: { type: "array", items: { type: "string" }, minItems: 1, maxItems: 6 },
    },
    required: ["title", "steps"],
    additionalProperties: false,
  },
};
export const schemaExamples = Object.keys(EXAMPLES);
export const schemaExample = (name) => JSON.stringify(EXAMPLES[name], null, 2);

const MAX_FAULTS = 5;
const MAX_DEPTH = 32;

// The value of a JSON text. Raises Error saying in which line it goes wrong.
export function parsed(text, what) {
  try {
    return JSON.parse(text);
  } catch (error) {
    const place = Number(/position (\d+)/.exec(error.message)?.[1] ?? NaN);
    const line = Number.isNaN(place) ? "" : ` (line ${text.slice(0, place).split("\n").length})`;
    throw new Error(`${what} is not JSON${line}: ${error.message.split("\n")[0]}`);
  }
}

// What of a value does not fit its schema, in words; [] if all of it does.
// Of JSON Schema: what servers can hold an answer to; other words of a schema are not looked at.
export function faultsOf(value, schema, root = schema, where = "the answer", depth = 0) {
  if (schema === true || schema === undefined || depth > MAX_DEPTH) return [];
  if (schema === false) return [`${where}: nothing is allowed here`];
  if (typeof schema.$ref === "string") {
    return faultsOf(value, referred(schema.$ref, root), root, where, depth + 1);
  }
  const faults = [...valueFaults(value, schema, where)];
  const inner = (each, itsSchema, place) => faultsOf(each, itsSchema, root, place, depth + 1);
  if (Array.isArray(value)) {
    value.forEach((each, n) => faults.push(...inner(each, schema.items, `${where}[${n}]`)));
  } else if (value !== null && typeof value === "object") {
    faults.push(...objectFaults(value, schema, where, inner));
  }
  for (const each of schema.allOf ?? []) faults.push(...inner(value, each, where));
  for (const word of ["anyOf", "oneOf"]) {
    const fitting = schema[word]?.filter((each) => !inner(value, each, where).length).length;
    if (fitting === 0) faults.push(`${where}: fits none of ${word}`);
    if (word === "oneOf" && fitting > 1) faults.push(`${where}: fits ${fitting} of oneOf`);
  }
  return faults.slice(0, MAX_FAULTS);
}

function referred(path, root) {
  const words = path.replace(/^#\/?/, "").split("/").filter(Boolean);
  return words.reduce((place, word) => place?.[word.replaceAll("~1", "/").replaceAll("~0", "~")], root);
}

function typeOf(value) {
  if (value === null) return "null";
  if (Array.isArray(value)) return "array";
  if (typeof value === "number") return Number.isInteger(value) ? "integer" : "number";
  return typeof value;
}

function* valueFaults(value, schema, where) {
  const type = typeOf(value);
  const wanted = [schema.type ?? []].flat();
  const is = (each) => each === type || (each === "number" && type === "integer");
  if (wanted.length && !wanted.some(is)) yield `${where}: ${type} instead of ${wanted.join(" or ")}`;
  const same = (other) => JSON.stringify(other) === JSON.stringify(value);
  if (schema.enum && !schema.enum.some(same)) yield `${where}: not one of ${JSON.stringify(schema.enum)}`;
  if ("const" in schema && !same(schema.const)) yield `${where}: not ${JSON.stringify(schema.const)}`;
  if (typeof value === "number") {
    if (value < schema.minimum || value <= schema.exclusiveMinimum) yield `${where}: too small`;
    if (value > schema.maximum || value >= schema.exclusiveMaximum) yield `${where}: too large`;
  } else if (typeof value === "string") {
    const length = [...value].length;
    if (length < schema.minLength) yield `${where}: shorter than ${schema.minLength}`;
    if (length > schema.maxLength) yield `${where}: longer than ${schema.maxLength}`;
    if (schema.pattern && !matches(schema.pattern, value)) yield `${where}: not like ${schema.pattern}`;
  } else if (Array.isArray(value)) {
    if (value.length < schema.minItems) yield `${where}: fewer than ${schema.minItems} items`;
    if (value.length > schema.maxItems) yield `${where}: more than ${schema.maxItems} items`;
  }
}

function matches(pattern, text) {
  try {
    return new RegExp(pattern, "u").test(text);
  } catch {
    return true; // a pattern of another kind of regular expression
  }
}

function objectFaults(value, schema, where, inner) {
  const faults = [];
  const properties = schema.properties ?? {};
  for (const name of schema.required ?? []) {
    if (!Object.hasOwn(value, name)) faults.push(`${where}: ${name} is missing`);
  }
  for (const [name, each] of Object.entries(value)) {
    const known = Object.hasOwn(properties, name);
    if (!known && schema.additionalProperties === false) faults.push(`${where}: ${name} is not foreseen`);
    else faults.push(...inner(each, known ? properties[name] : schema.additionalProperties, `${where}.${name}`));
  }
  return faults;
}

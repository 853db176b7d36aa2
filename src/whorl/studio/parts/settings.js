// The settings beside the conversation, and the bodies of requests that they make.

import { at, fill } from "./dom.js";
import { parsed, schemaExample, schemaExamples } from "./schema.js";
import { toolExample, toolExamples, toolsOf } from "./tools.js";

const TOP = 5; // alternatives of a token that are asked for

// Which control is behind a field that a server refuses, and what people call it.
const SWITCHES = {
  response_format: ["structured", "structured output"],
  logprobs: ["logprobs", "the probabilities"],
  top_logprobs: ["logprobs", "the probabilities"],
  tools: ["with-tools", "tools"],
  tool_choice: ["with-tools", "tools"],
};

export function prepareSettings() {
  editor("structured", "schema-group", "schema", "schema-note", schemaExamples, schemaExample, (text) => {
    const schema = parsed(text, "The schema");
    if (schema === null || typeof schema !== "object") throw new Error("A schema is an object.");
    return "This is a schema.";
  });
  editor("with-tools", "tools-editor", "tools", "tools-note", toolExamples, toolExample, (text) => {
    const names = toolsOf(text).map((tool) => tool.function.name);
    return `Tools: ${names.join(", ")}.`;
  });
  at("settings-form").addEventListener("submit", (event) => event.preventDefault());
  const narrow = window.matchMedia("(max-width: 60rem)");
  const fold = () => { at("settings").open = !narrow.matches; };
  narrow.addEventListener("change", fold);
  fold();
}

// A text of JSON behind a check box, with examples and a line that says whether it will do.
function editor(box, group, area, note, names, example, check) {
  const select = at(`${area}-example`);
  const tell = () => {
    try {
      at(note).textContent = check(at(area).value);
      at(area).removeAttribute("aria-invalid");
    } catch (error) {
      at(note).textContent = error.message;
      at(area).setAttribute("aria-invalid", "true");
    }
  };
  const start = () => { at(area).value = example(select.value); tell(); };
  fill(select, names.map((name) => [name, name]));
  select.addEventListener("change", start);
  at(area).addEventListener("input", tell);
  at(box).addEventListener("change", () => { at(group).hidden = !at(box).checked; });
  start();
}

export function startFrom(model) {
  const context = model.context_length ?? 1024;
  const limit = Math.max(1, Math.min(model.max_tokens ?? 512, context - 1));
  at("max-tokens").max = limit;
  at("max-tokens").value = Math.min(limit, 256, Math.ceil(context / 2)); // the rest is for the prompt
  at("temperature").value = model.sampling?.temperature ?? 0.7;
  at("top-p").value = model.sampling?.top_p ?? 0.95;
  at("seed").value = model.sampling?.seed ?? "";
  const unable = new Set(model.engine_unable ?? []);
  offer("logprobs", !unable.has("logprobs"), "This engine tells no probabilities.");
  const writes = (model.codecs ?? []).some((codec) => codec.media_type.startsWith("text/"));
  const why = writes ? "This engine cannot hold an answer to a schema." : "This model writes no text.";
  offer("structured", writes && !unable.has("grammar"), why);
  offer("with-tools", model.tool_calls !== null, "This model's chats know no tool calls.");
}

// A setting that the model's card says is of no use stands there, and says why.
function offer(box, useful, why) {
  at(box).disabled = !useful;
  at(`${box}-why`).textContent = useful ? "" : why;
  at(`${box}-why`).hidden = useful;
  if (useful || !at(box).checked) return;
  at(box).checked = false;
  at(box).dispatchEvent(new Event("change"));
}

// The same seed gives the same answer: who asks again wants another.
export function nextSeed() {
  if (at("seed").value !== "") at("seed").value = Number(at("seed").value) + 1;
}

// Raises Error saying which setting cannot be used.
export function readSettings() {
  if (!at("settings-form").checkValidity()) {
    at("settings").open = true;
    at("settings-form").reportValidity();
    throw new Error("One of the settings cannot be used.");
  }
  const number = (id) => (at(id).value === "" ? undefined : Number(at(id).value));
  return {
    temperature: number("temperature"),
    top_p: number("top-p"),
    seed: number("seed"), // undefined: the server draws one
    max_tokens: number("max-tokens"),
    stop: at("stop-text").value || undefined,
    system: at("system").value.trim(),
    logprobs: at("logprobs").checked,
    schema: at("structured").checked ? parsed(at("schema").value, "The schema") : null,
    tools: at("with-tools").checked ? toolsOf(at("tools").value) : null,
  };
}

export function chatBody(model, settings, messages) {
  const system = settings.system ? [{ role: "system", content: settings.system }] : [];
  return clean({
    model: model.id,
    messages: [...system, ...messages],
    ...common(settings),
    tools: settings.tools ?? undefined,
    ...(settings.logprobs ? { logprobs: true, top_logprobs: TOP } : {}),
  });
}

export function completionBody(model, settings, prompt) {
  return clean({
    model: model.id,
    prompt,
    ...common(settings),
    logprobs: settings.logprobs ? TOP : undefined,
  });
}

function common({ temperature, top_p, seed, max_tokens, stop, schema }) {
  const format = schema
    && { type: "json_schema", json_schema: { name: "answer", schema, strict: true } };
  return { temperature, top_p, seed, max_tokens, stop, response_format: format ?? undefined };
}

function clean(body) {
  return Object.fromEntries(Object.entries(body).filter(([, value]) => value !== undefined));
}

// The setting that a refusal is about: {name, turnOff}; null if it is about none.
export function settingOf(error) {
  const [box, name] = SWITCHES[String(error.param ?? "").split(/[.[]/)[0]] ?? [];
  if (!box || !at(box).checked) return null;
  const turnOff = () => {
    at(box).checked = false;
    at(box).dispatchEvent(new Event("change"));
  };
  return { name, turnOff };
}

// Tools that a model may call: examples, their check, calls put together from a stream, their cards.

import { button, make } from "./dom.js";
import { parsed } from "./schema.js";

const tool = (name, description, properties) => ({
  type: "function",
  function: {
    name,
    description,
    parameters: { type: "object", properties, required: Object.keys(properties) },
  },
});
const EXAMPLES = {
  weather: [
    tool("get_weather", "The weather of a place now", { city: { type: "string" } }),
  ],
  calculator: [
    tool("calculate", "The value of an arithmetic expression", { expression: { type: "string" } }),
  ],
  "search and open": [
    tool("search", "Pages that match some words", { query: { type: "string" } }),
    tool("open_page", "The text of a page", { address: { type: "string" } }),
  ],
};
export const toolExamples = Object.keys(EXAMPLES);
export const toolExample = (name) => JSON.stringify(EXAMPLES[name], null, 2);

// The tools of a text. Raises Error saying what is wrong with it.
export function toolsOf(text) {
  const tools = parsed(text, "The list of tools");
  if (!Array.isArray(tools) || !tools.length) throw new Error("The tools are a list of at least one.");
  for (const [n, each] of tools.entries()) {
    if (each?.type !== "function" || typeof each.function?.name !== "string") {
      throw new Error(`Tool ${n + 1} needs "type": "function" and a function with a name.`);
    }
  }
  return tools;
}

// Adds what a piece of a stream says of calls: [{id, name, arguments}].
export function addCalls(calls, pieces) {
  for (const piece of pieces) {
    const place = piece.index ?? calls.length;
    calls[place] ??= { id: "", name: "", arguments: "" };
    calls[place].id ||= piece.id ?? "";
    calls[place].name += piece.function?.name ?? "";
    calls[place].arguments += piece.function?.arguments ?? "";
  }
}

export function callsAsMessage(calls) {
  return calls.map((call) => ({
    id: call.id,
    type: "function",
    function: { name: call.name, arguments: call.arguments },
  }));
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

export function callCard(call) {
  return make(
    "section",
    { class: "call", aria: { label: `Call of ${call.name}` } },
    make("p", {}, "The model calls ", make("code", {}, call.name)),
    make("pre", {}, make("code", {}, pretty(call.arguments))),
  );
}

// A form for what the calls returned; onResults gets one text for each.
export function resultForm(calls, onResults) {
  const inputs = calls.map((call) => make("textarea", {
    class: "mono", rows: 2, placeholder: "what it returns, as text or JSON",
    aria: { label: `What ${call.name} returns` },
  }));
  const submit = () => onResults(inputs.map((input) => input.value));
  const form = make("form", { class: "results" });
  calls.forEach((call, n) => form.append(
    make("p", {}, "You answer as ", make("code", {}, call.name)), inputs[n],
  ));
  form.append(make("div", { class: "row" }, make("span", { class: "spring" }),
    button("Give it to the model", submit, { class: "main" })));
  form.addEventListener("submit", (event) => event.preventDefault());
  return form;
}

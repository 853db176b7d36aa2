// Values of a closed vocabulary: all of them to choose from, and some with their probabilities.

import { getJson } from "./api.js";
import { make } from "./dom.js";
import { bars, percent } from "./tokens.js";

// All values of a codec: as the model tells them, or, where they are many, ranked once by the model.
export async function valuesOf(model, codec, signal) {
  const told = model.inputs?.[codec]?.choices;
  if (told) return told;
  const body = { model: model.id, prompt: model.start_ids, codec };
  const { candidates } = await getJson("/v1/rank", { body, signal });
  return candidates.map(({ candidate }) => candidate);
}

// Of /v1/classify: [{label, probability}], the chosen one marked.
export function classBars(classes, chosen) {
  return bars(classes.map(({ label, probability }) => ({ text: label, logprob: Math.log(probability) })), chosen, true);
}

// Of /v1/rank: candidates as an ordered list; each may be used, which the button says.
// [{candidate, probability}]; before: the order of the answer before, to tell what moved.
export function ranked(candidates, { use, verb, before = null }) {
  const most = candidates[0]?.probability || 1;
  return make("ol", { class: "ranked" }, ...candidates.map(({ candidate, probability }, place) => {
    const bar = make("span", { class: "bar" });
    bar.style.width = `${(100 * probability) / most}%`;
    return make("li", {},
      make("span", { class: "place" }, String(place + 1)),
      make("button", { type: "button", class: "name", title: `${verb}: ${candidate}`, on: { click: () => use(candidate) } }, candidate),
      moved(before, candidate, place),
      make("span", { class: "share" }, percent(probability)),
      make("span", { class: "track", aria: { hidden: "true" } }, bar));
  }));
}

function moved(before, candidate, place) {
  if (!before) return make("span", { class: "moved" });
  const was = before.indexOf(candidate);
  if (was < 0) return make("span", { class: "moved new" }, "new");
  if (was === place) return make("span", { class: "moved" });
  const up = was > place;
  return make("span", { class: `moved ${up ? "up" : "down"}`, aria: { label: `${up ? "up" : "down"} by ${Math.abs(was - place)}` } },
    `${up ? "▲" : "▼"}${Math.abs(was - place)}`);
}

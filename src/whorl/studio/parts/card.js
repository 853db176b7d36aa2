// The model's card: what it is, how good it is, what compression cost, what the server promises.

import { make } from "./dom.js";

const words = (name) => name.replaceAll("_", " ");

// Engine and variant: "openvino int8", "torch hf f32".
export function formOf({ engine, variant }) {
  return engine && variant?.startsWith(engine) ? variant : [engine, variant].filter(Boolean).join(" ");
}

export function cardOf(model) {
  return [
    about(model),
    quality(model),
    compressed(model),
    promised(model),
    madeFrom(model),
    inputs(model),
  ].filter(Boolean);
}

function section(title, ...children) {
  return make("section", { class: "sheet" }, make("h2", {}, title), ...children);
}

function facts(pairs, kind = "") {
  const rows = pairs.filter(([, value]) => value !== undefined && value !== null && value !== "");
  return make("dl", {}, ...rows.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", { class: kind }, String(value)))));
}

const count = (number) => (typeof number === "number" ? number.toLocaleString("en") : undefined);

function about(model) {
  const created = model.created ? new Date(model.created * 1000).toISOString().slice(0, 10) : "";
  return section(
    model.id,
    facts([
      ["Served as", model.variant], ["Engine", model.engine], ["Made", created],
      ["Context", model.context_length && `${count(model.context_length)} tokens`],
      ["Longest answer", model.max_tokens && `${count(model.max_tokens)} tokens`],
      ["Vocabulary", model.vocab_size && `${count(model.vocab_size)} tokens`],
      ["Chats", model.chats === undefined ? "" : model.chats ? "yes" : "no, it goes on from what it is given"],
      ["Calls tools", model.tool_calls && `in the form of ${model.tool_calls}`],
      ["The engine cannot", (model.engine_unable ?? []).map(words).join(", ")],
    ]),
  );
}

const shownFigure = (figure) => figure.shown || figure.value.toPrecision(4);
const has = (value) => value !== null && value !== undefined;

function quality(model) {
  if (!model.quality?.length) {
    return section("How good it is", make("p", { class: "note" }, "Nothing was measured of this model here: whorl up measures it."));
  }
  return section("How good it is", table(
    ["Measured", "On", "Value", "95% interval"],
    model.quality.map((figure) => [words(figure.metric), words(figure.field || figure.name || ""), shownFigure(figure), interval(figure)]),
  ));
}

function interval({ low, high }) {
  return has(low) && has(high) ? `${low.toPrecision(4)} to ${high.toPrecision(4)}` : "–";
}

// Beside the variant that is served, those that were measured with it.
function compressed(model) {
  const rows = (model.variants ?? []).flatMap(({ variant, quality: figures }) => figures.map((figure) => {
    const served = model.quality.find((each) => each.metric === figure.metric && each.field === figure.field);
    return [variant, words(figure.metric), shownFigure(figure), served ? change(served.value, figure.value) : "–"];
  }));
  if (!rows.length) return null;
  return section(
    "What it lost in compression",
    table(["Other variant", "Measured", "Value", `${model.variant} beside it`], rows),
    make("p", { class: "note" }, "The change from that variant to the one that is served; both were measured on the same documents."),
  );
}

function change(value, other) {
  if (!other) return "–";
  const share = (100 * (value - other)) / Math.abs(other);
  return `${share >= 0 ? "+" : "−"}${Math.abs(share).toFixed(2)}%`;
}

// For so many at once, each with a prompt of so many tokens.
function promised({ promise }) {
  if (!promise) return null;
  const each = promise.tokens_per_s_per_user?.toPrecision(3);
  const missed = (promise.missed ?? []).map((target) => make("li", {}, target));
  return section(
    "What this server promises",
    facts([
      ["Users at once", count(promise.users)],
      ["First token", promise.ttft_p95_s && `within ${seconds(promise.ttft_p95_s)}, 95 times of 100`],
      ["Then for each", each && `${each} tokens/s`],
      ["All together", promise.tokens_per_s && `${count(Math.round(promise.tokens_per_s))} tokens/s`],
      ["Prompts", promise.prompt_tokens && `of ${count(promise.prompt_tokens)} tokens`],
      ["Memory", promise.memory_bytes && `up to ${(promise.memory_bytes / 2 ** 30).toFixed(1)} GiB`],
      ["Figures are", promise.basis],
    ]),
    missed.length ? make("p", { class: "note" }, "Asked for and not kept:") : null,
    missed.length ? make("ul", { class: "note" }, ...missed) : null,
  );
}

const seconds = (time_s) => (time_s < 1 ? `${Math.round(1000 * time_s)} ms` : `${time_s.toFixed(1)} s`);

function madeFrom(model) {
  const records = Object.entries(model.lineage ?? {}).map(([role, digest]) => [words(role), digest]);
  return section(
    "What it was made from",
    facts([...records, ["token contract", model.contract_digest]], "digest"),
    make("p", { class: "note" }, "Digests of its records: whorl show tells what went into each."),
  );
}

function inputs(model) {
  if (!model.codecs?.length) return null;
  return section("What it takes and gives", table(
    ["Codec", "Media type", "Token ids"],
    model.codecs.map((codec) => [codec.name, codec.media_type, `${codec.id_start} to ${codec.id_end - 1}`]),
  ));
}

function table(heads, rows) {
  return make("div", { class: "scroll", tabIndex: 0, role: "group", aria: { label: heads.join(", ") } }, make(
    "table",
    {},
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell) => make("td", {}, cell))))),
  ));
}

"use strict";
// Asks the server for its model, sends a prompt, shows the answer as it comes.
// Whatever the server sends is put in with textContent, never as HTML.

const at = (id) => document.getElementById(id);
let model = null;
let running = null; // the AbortController of the request in progress

async function start() {
  try {
    const response = await fetch("/v1/models");
    if (!response.ok) throw new Error(await refusal(response));
    model = (await response.json()).data[0];
  } catch (error) {
    at("about").textContent = "No model.";
    showError(error);
    return;
  }
  model.takesText = model.codecs.some((codec) => codec.name === "text");
  document.title = `${model.id} · whorl`;
  at("model").textContent = model.id;
  const engine = [model.engine, model.variant].filter(Boolean).join(" ");
  at("about").textContent =
    `${engine} · context of ${model.context_length.toLocaleString("en")} tokens`;
  for (const figure of model.quality) at("quality").append(qualityItem(figure));
  at("prompt").value = model.example_prompt;
  const limit = Math.max(1, Math.min(model.max_tokens, model.context_length - 1));
  at("max-tokens").max = limit;
  at("max-tokens").value = Math.min(limit, 128);
  at("temperature").value = model.sampling.temperature;
  at("top-p").value = model.sampling.top_p;
  at("seed").value = model.sampling.seed;
  if (!model.takesText) askForIds();
  at("generate").disabled = false;
  at("prompt").focus();
}

function qualityItem(figure) {
  const item = document.createElement("li");
  const value = document.createElement("b");
  value.textContent = figure.shown || figure.value.toPrecision(4);
  item.append(`${figure.metric.replaceAll("_", " ")} `, value);
  const interval = figure.low !== null && figure.high !== null
    ? `95% interval ${figure.low.toPrecision(4)} to ${figure.high.toPrecision(4)}` : "";
  item.title = [figure.name, interval].filter(Boolean).join(": ");
  return item;
}

function askForIds() {
  const names = model.codecs.map((codec) => `${codec.name} ${codec.id_start}–${codec.id_end - 1}`);
  at("note").textContent =
    `This model takes no text. Its prompt is token ids, separated by commas or spaces; ` +
    `ids: special 0–15, ${names.join(", ")}.`;
  at("note").hidden = false;
  at("prompt-label").textContent = "Prompt (token ids)";
  at("prompt").inputMode = "numeric";
  at("max-tokens").value = Math.min(Number(at("max-tokens").max), 4);
  at("temperature").value = "0";
}

function promptToSend() {
  const text = at("prompt").value;
  if (model.takesText) return text;
  const ids = text.split(/[\s,]+/).filter(Boolean).map(Number);
  if (!ids.length || !ids.every((id) => Number.isInteger(id) && id >= 0)) {
    throw new Error("The prompt must be token ids: whole numbers, separated by commas or spaces.");
  }
  return ids;
}

async function generate() {
  if (running || !model || !at("form").reportValidity()) return;
  clear();
  const controller = running = new AbortController();
  setBusy(true);
  const meter = new Meter();
  try {
    const body = {
      model: model.id,
      prompt: promptToSend(),
      temperature: Number(at("temperature").value),
      top_p: Number(at("top-p").value),
      seed: at("seed").value === "" ? undefined : Number(at("seed").value), // the server's own
      max_tokens: Number(at("max-tokens").value),
      stream: true,
      stream_options: { include_usage: true },
    };
    at("echo").textContent = model.takesText ? body.prompt : "";
    meter.begin();
    const response = await fetch("/v1/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal: controller.signal,
    });
    if (!response.ok) throw new Error(await refusal(response));
    for await (const event of events(response.body)) show(event, meter);
    if (!meter.reason) throw new Error("The answer broke off: the server closed the connection.");
    at("status").textContent = meter.reason === "length"
      ? "Ended at the limit of tokens." : "The model ended here.";
  } catch (error) {
    if (controller.signal.aborted) at("status").textContent = "Stopped.";
    else showError(error);
  } finally {
    running = null;
    setBusy(false);
  }
}

function show(event, meter) {
  if (event.error) throw new Error(event.error.message);
  if (event.usage) meter.finish(event.usage.completion_tokens);
  for (const choice of event.choices) {
    const output = at("output");
    const follows = output.scrollTop + output.clientHeight >= output.scrollHeight - 8;
    if (choice.text) at("answer").append(choice.text);
    if (follows) output.scrollTop = output.scrollHeight;
    meter.token(Boolean(choice.text));
    if (choice.finish_reason) meter.reason = choice.finish_reason;
  }
}

// Server-sent events of a response body, parsed.
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const data = part.replace(/^data: /, "");
        if (data !== "[DONE]") yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// Time to first token and speed; the count is of events until the server tells the true one.
class Meter {
  reason = null;
  count = 0;
  begin() { this.beganAt = performance.now(); }
  token(hasText) {
    const now = performance.now();
    if (hasText && this.firstAt === undefined) {
      this.firstAt = now;
      at("ttft").textContent = `${Math.round(now - this.beganAt)} ms`;
    }
    this.count += hasText ? 1 : 0;
    this.lastAt = now;
    this.write(this.count);
  }
  finish(count) { this.write(count); }
  write(count) {
    at("count").textContent = String(count);
    const elapsed_s = (this.lastAt - this.firstAt) / 1000;
    if (count > 1 && elapsed_s > 0) {
      at("speed").textContent = `${((count - 1) / elapsed_s).toFixed(1)} tokens/s`;
    }
  }
}

async function refusal(response) {
  let message = `The server answered ${response.status}.`;
  try {
    message = (await response.json()).error.message;
  } catch { /* not ours: the status has to do */ }
  if (response.status === 401) message = "The server was started again: open its new address.";
  if (response.status === 429) {
    message += ` (about ${response.headers.get("Retry-After")} s)`;
  }
  return message;
}

function showError(error) {
  const text = error instanceof TypeError ? "The server cannot be reached." : error.message;
  at("error").textContent = text.charAt(0).toUpperCase() + text.slice(1);
  at("error").hidden = false;
}

function clear() {
  at("error").hidden = true;
  for (const id of ["echo", "answer", "status"]) at(id).textContent = "";
  for (const id of ["ttft", "speed", "count"]) at(id).textContent = "–";
}

function setBusy(busy) {
  at("generate").disabled = busy;
  at("stop").disabled = !busy;
  at("caret").hidden = !busy;
}

at("form").addEventListener("submit", (event) => { event.preventDefault(); generate(); });
at("stop").addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    generate();
  } else if (event.key === "Escape") running?.abort();
});
start();

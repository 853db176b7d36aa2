// How busy the server is, in a line: from /metrics where there is one, else from /health.

import { send } from "./api.js";
import { at } from "./dom.js";

const EVERY_MS = 3000;
let hasMetrics = true;

export function watchLoad() {
  const tick = async () => {
    if (!document.hidden) at("load").textContent = await loadLine().catch(() => "The server does not answer");
    setTimeout(tick, EVERY_MS);
  };
  tick();
}

async function loadLine() {
  if (hasMetrics) {
    try {
      return fromMetrics(samplesOf(await (await send("/metrics", { quiet: true })).text()));
    } catch (error) {
      if (error.status) hasMetrics = false; // refused: there is none
      else throw error;
    }
  }
  const response = await fetch("/health");
  const { status, requests } = await response.json();
  if (status !== "ok") return `The server is ${status}`;
  return requests ? `${requests} ${requests === 1 ? "request" : "requests"} inside` : "Idle";
}

// Samples of Prometheus' text format, their labels added up: {name: value}.
function samplesOf(text) {
  const samples = {};
  for (const line of text.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{.*\})?\s+(\S+)/.exec(line);
    if (match && !line.startsWith("#")) samples[match[1]] = (samples[match[1]] ?? 0) + Number(match[2]);
  }
  return samples;
}

function fromMetrics({ whorl_running: running, whorl_waiting: waiting, whorl_tokens_per_second: speed }) {
  if (running === undefined) return "Running";
  if (!running && !waiting) return "Idle";
  const words = [`${running} running`];
  if (waiting) words.push(`${waiting} waiting`);
  if (speed) words.push(`${Math.round(speed)} tokens/s`);
  return words.join(" · ");
}

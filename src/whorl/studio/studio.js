// The page: asks the server for its models, then lets a person talk to them.

import { apiKey, getJson, whenKeyIsWanted } from "./parts/api.js";
import { cardOf, formOf } from "./parts/card.js";
import { Chat } from "./parts/chat.js";
import { Compare } from "./parts/compare.js";
import { Complete } from "./parts/complete.js";
import { at, clearError, fill, opened, showError } from "./parts/dom.js";
import { watchLoad } from "./parts/load.js";
import { prepareSettings, startFrom } from "./parts/settings.js";
import { hideTip } from "./parts/tokens.js";
import { stopAll } from "./parts/turns.js";
import { Chess } from "./rooms/chess.js";
import { Classify } from "./rooms/classify.js";
import { Find } from "./rooms/find.js";
import { Graph } from "./rooms/graph.js";
import { Labels } from "./rooms/labels.js";
import { Listen } from "./rooms/listen.js";
import { Play } from "./rooms/play.js";
import { Read } from "./rooms/read.js";
import { Recommend } from "./rooms/recommend.js";
import { Rows } from "./rooms/rows.js";
import { Speak } from "./rooms/speak.js";
import { Tags } from "./rooms/tags.js";
import { Translate } from "./rooms/translate.js";

// Rooms by task, in the order of their tabs: each is there where the model has such a task.
const KINDS = [Classify, Find, Read, Listen, Speak, Recommend, Graph, Rows, Labels, Tags, Translate, Play, Chess];
const ROOMS = KINDS.map((Kind) => new Kind());
const TABS = ["chat", ...ROOMS.map(({ name }) => name), "complete", "compare", "card"];
const NEED_SETTINGS = new Set(["chat", "complete", "compare"]);
const chat = new Chat();
const complete = new Complete();
const compare = new Compare();

async function start() {
  if (location.search) history.replaceState(null, "", "/"); // an address with an old token
  prepareSettings();
  let models;
  try {
    models = (await getJson("/v1/models")).data;
  } catch (error) {
    at("about").textContent = "No model.";
    showError(error);
    return;
  }
  clearError();
  fill(at("model-choice"), models.map((model) => [model.id, model.id]));
  at("model-choice").hidden = models.length < 2;
  at("model").className = models.length > 1 ? "unseen" : "";
  at("model-choice").addEventListener("change", () => {
    use(models.find((model) => model.id === at("model-choice").value));
  });
  use(models[0]);
  compare.use(models, models.every(chats));
  show(firstOf(models[0]));
  watchLoad();
}

// A server that does not tell is asked.
const chats = (model) => model.chats ?? takesText(model);
const takesText = ({ codecs }) => !codecs || codecs.some((codec) => codec.media_type.startsWith("text/"));

// The room that a person begins in.
const firstOf = (model) => (chats(model) ? "chat" : (ROOMS.find((room) => room.taskOf(model))?.name ?? "complete"));

function use(model) {
  document.title = `${model.id} · whorl`;
  at("model").textContent = model.id;
  const context = model.context_length?.toLocaleString("en");
  at("about").textContent = [
    formOf(model),
    context && `context of ${context} tokens`,
  ].filter(Boolean).join(" · ");
  startFrom(model);
  complete.use(model);
  if (chats(model)) chat.use(model);
  at("tab-chat").hidden = !chats(model);
  for (const room of ROOMS) {
    room.tab.hidden = !room.taskOf(model);
    if (!room.tab.hidden) room.use(model);
  }
  at("tab-compare").hidden = !takesText(model);
  const now = document.body.dataset.tab ?? "card";
  if (at(`tab-${now}`).hidden) show(firstOf(model));
  else ROOMS.find(({ name }) => name === now)?.enter();
  at("card").replaceChildren(...cardOf(model));
}

function show(tab) {
  for (const each of TABS) {
    const chosen = each === tab;
    at(`tab-${each}`).setAttribute("aria-selected", String(chosen));
    at(`tab-${each}`).tabIndex = chosen ? 0 : -1;
    at(`panel-${each}`).hidden = !chosen;
  }
  document.body.dataset.tab = tab;
  document.body.dataset.settings = NEED_SETTINGS.has(tab) ? "yes" : "no";
  ROOMS.find(({ name }) => name === tab)?.enter();
  at(`tab-${tab}`).scrollIntoView({ block: "nearest", inline: "nearest" });
  at("settings").hidden = !NEED_SETTINGS.has(tab);
  at("system-group").hidden = tab !== "chat";
  at("tools-group").hidden = tab !== "chat";
  hideTip();
  clearError();
  window.scrollTo(0, 0);
}

for (const tab of TABS) at(`tab-${tab}`).addEventListener("click", () => show(tab));
at("tab-chat").parentElement.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const there = TABS.filter((tab) => !at(`tab-${tab}`).hidden);
  const now = there.findIndex((tab) => at(`tab-${tab}`).tabIndex === 0);
  const next = there[(now + step + there.length) % there.length];
  show(next);
  at(`tab-${next}`).focus();
});

addEventListener("resize", () => at(`tab-${document.body.dataset.tab ?? "card"}`).scrollIntoView({ block: "nearest", inline: "nearest" }));

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) stopAll();
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  const tab = document.body.dataset.tab;
  const room = [...ROOMS, { name: "complete", go: () => complete.go() }, { name: "compare", go: () => compare.go() }]
    .find(({ name }) => name === tab);
  if (!room) return;
  event.preventDefault();
  room.go();
});

// ------------------------------------------------------------------ the API key

function closeKeyDialog(answer) {
  at("key-dialog").close(answer);
}
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!at("key").value.trim()) return;
  apiKey.set(at("key").value.trim());
  at("key").value = "";
  closeKeyDialog("yes");
});
at("key-cancel").addEventListener("click", () => closeKeyDialog(""));
at("key-forget").addEventListener("click", () => { apiKey.set(""); closeKeyDialog(""); });

let asking = null; // one dialog, however many requests want the key
whenKeyIsWanted(() => {
  const title = apiKey.get() ? "That key was not taken" : "This server asks for an API key";
  asking ??= askForKey(title).finally(() => { asking = null; });
  return asking;
});
at("key-open").addEventListener("click", async () => {
  if (await askForKey("Your API key")) location.reload();
});

function askForKey(title) {
  at("key-title").textContent = title;
  at("key-forget").hidden = !apiKey.get();
  return opened(at("key-dialog"));
}

start();

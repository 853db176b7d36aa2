// A model that acts in a world: watched step by step, stopped, gone back, or acted for.
// Nothing is kept by the server: each request says what was done so far (see /v1/play).

import { getJson } from "../parts/api.js";
import { announce, button, fill, make } from "../parts/dom.js";
import { drawScene } from "../parts/scene.js";
import { bars } from "../parts/tokens.js";
import { Room } from "./room.js";

const AT_ONCE = 8; // steps of one request
const STEP_MS = 350; // between two of them, as they are watched
const SPEEDS = { slow: 2, usual: 1, fast: 0.3 };
const FIRST_SEED = 100_000_000; // from here on nothing was learned from
const SEEDS = 1_000;

export class Play extends Room {
  path = "/v1/play";
  frames = [];
  #place = 0; // of the frame that is shown
  #playing = false;
  #timer = 0;

  constructor() {
    super({
      name: "play", title: "Play", heading: "Watch it act", verb: "Begin",
      tasks: ["play"],
    });
    this.canvas = make("canvas", { class: "scene", role: "img", width: 640, height: 420, aria: { label: "The world" } });
    this.said = make("p", { class: "said" });
    this.cells = make("div", {});
    this.chosen = make("div", { class: "choice" });
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      if (this.frames.length) this.#show(this.#place); // a canvas keeps the colours it was drawn in
    });
    this.slider = make("input", { type: "range", id: "play-place", min: 0, max: 0, value: 0, on: { input: () => this.#show(Number(this.slider.value)) } });
    this.pause = button("Pause", () => this.#toggle(), { id: "play-pause", class: "main" });
    this.speed = make("select", { aria: { label: "Speed" } });
    fill(this.speed, Object.keys(SPEEDS).map((name) => [name, name]), "usual");
    this.hands = make("div", { class: "row hands", role: "group", aria: { label: "Act in its place" } });
    this.stage = make("div", { class: "stage" },
      make("div", {}, this.canvas, this.cells, this.said,
        make("div", { class: "row" }, this.pause,
          button("◀", () => this.#halt(this.#place - 1), { aria: { label: "One step back" } }),
          button("▶", () => this.#halt(this.#place + 1), { aria: { label: "One step on" } }),
          this.speed, make("span", { class: "spring" }), make("label", { for: "play-place", class: "unseen" }, "Step"), this.slider)),
      make("div", {}, this.chosen, this.hands));
  }

  taskOf(model) {
    return (model.tasks ?? []).find((task) => this.tasks.includes(task.task) && task.worlds.length);
  }

  build() {
    this.#stopWatching();
    this.frames = [];
    this.world = make("select", { id: "play-world", on: { change: () => this.clear() } });
    fill(this.world, this.task.worlds.map((name) => [name, worldName(name)]));
    this.seed = make("input", { id: "play-seed", type: "number", min: 0, max: 2 ** 31 - 1, step: 1, required: true, value: FIRST_SEED });
    this.input.replaceChildren(make("div", { class: "row" },
      make("label", { for: "play-world" }, "World"), this.world,
      make("label", { for: "play-seed" }, "Seed"), this.seed,
      button("Another", () => { this.seed.value = FIRST_SEED + Math.floor(Math.random() * SEEDS); this.go(); }, { class: "quiet" })));
  }

  ready() {
    return Boolean(this.seed?.checkValidity());
  }

  clear() {
    this.#stopWatching();
    this.frames = [];
    this.result.replaceChildren();
  }

  async body() {
    return this.#body(this.frames.slice(1).map(({ action }) => action), AT_ONCE);
  }

  #body(actions, steps) {
    return { model: this.model.id, world: this.world.value, seed: Number(this.seed.value), actions, steps };
  }

  // From its beginning.
  async ask(signal) {
    this.clear();
    const told = await getJson(this.path, { body: this.#body([], AT_ONCE), signal });
    if (signal.aborted) return;
    this.frames = told.frames;
    this.told = told;
    this.result.replaceChildren(this.stage);
    this.#show(0);
    this.#play();
  }

  get #hasEnded() {
    const last = this.frames.at(-1);
    return last.has_ended || this.told.fault !== null || this.frames.length > this.told.most_steps;
  }

  // ---- what is done so far, and more of it

  async #more(actions = this.#actions(this.frames.length - 1), steps = AT_ONCE) {
    if (this.asking) return;
    this.asking = true;
    await this.turn.run(async (signal) => {
      try {
        const told = await getJson(this.path, { body: this.#body(actions, steps), signal });
        if (signal.aborted) return;
        this.told = told;
        const [here, ...frames] = told.frames;
        this.frames = [...this.frames.slice(0, actions.length), { ...here, choices: this.frames[actions.length]?.choices ?? here.choices }, ...frames];
      } catch (error) {
        this.#stopWatching();
        if (!signal.aborted) throw error;
      }
    }).catch((error) => this.fail(error));
    this.asking = false;
  }

  fail(error) {
    this.said.textContent = error.message;
  }

  #actions(place) {
    return this.frames.slice(1, place + 1).map(({ action }) => action);
  }

  // The person acts where the episode is shown; what came after is another world's future now.
  async #act(action) {
    this.#stopWatching();
    if (this.asking || this.frames[this.#place].has_ended) return;
    const actions = [...this.#actions(this.#place), action];
    this.frames.length = actions.length;
    await this.#more(actions, 0);
    this.#show(Math.min(actions.length, this.frames.length - 1));
  }

  // ---- watching

  #toggle() {
    if (this.#playing) this.#stopWatching();
    else if (this.#place === this.frames.length - 1 && this.#hasEnded) this.#show(0), this.#play();
    else this.#play();
  }

  #play() {
    this.#playing = true;
    this.pause.textContent = "Pause";
    this.#timer = setTimeout(() => this.#tick(), STEP_MS * SPEEDS[this.speed.value]);
  }

  async #tick() {
    const { frames } = this;
    if (this.#place >= frames.length - 1 && !this.#hasEnded) await this.#more();
    else if (frames.length - this.#place < AT_ONCE / 2 && !this.#hasEnded) this.#more();
    if (!this.#playing) return;
    if (this.#place < this.frames.length - 1) this.#show(this.#place + 1);
    if (this.#place >= this.frames.length - 1 && this.#hasEnded) this.#stopWatching();
    else if (this.panel.hidden) this.#stopWatching();
    else this.#play();
  }

  #stopWatching() {
    clearTimeout(this.#timer);
    this.#playing = false;
    this.pause.textContent = "Go on";
  }

  async #halt(place) {
    this.#stopWatching();
    if (place >= this.frames.length && !this.#hasEnded) await this.#more();
    this.#show(Math.max(0, Math.min(place, this.frames.length - 1)));
  }

  #show(place) {
    this.#place = place;
    const frame = this.frames[place];
    this.slider.max = this.frames.length - 1;
    this.slider.value = place;
    const drawn = drawScene(this.canvas, frame.scene);
    this.canvas.hidden = !drawn;
    this.cells.replaceChildren(...(drawn ? [] : [cellsOf(frame.observation)]));
    const end = place === this.frames.length - 1 && (frame.has_ended || this.told.fault);
    const told = [frame.scene.told, `step ${place}`, `rewards ${number(frame.total)}`];
    if (end) told.push(this.told.fault ? `it cannot go on: ${this.told.fault}` : frame.has_succeeded ? "done: it went well" : "over: it went wrong");
    this.said.textContent = told.filter(Boolean).join(" · ");
    this.said.className = end ? `said ${frame.has_succeeded ? "well" : "badly"}` : "said";
    if (end) announce(this.said.textContent);
    this.#showChoices(this.frames[place + 1] ?? null, frame);
    const hands = frame.actions.map((action) => button(actionName(action), () => this.#act(action), { class: "chip" }));
    this.hands.replaceChildren(...(hands.length ? [make("span", { class: "note" }, "Act in its place:"), ...hands] : []));
  }

  // What the model had to choose from here, where that is known, and what was done.
  #showChoices(next, frame) {
    const title = make("h2", {}, next ? "What it does here" : frame.has_ended ? "The end" : "What it will do is not asked yet");
    if (!next) return this.chosen.replaceChildren(title);
    const shares = next.choices.map(({ action, probability }) => ({ text: actionName(action), logprob: Math.log(probability) }));
    const done = next.choices.length ? bars(shares, actionName(next.action), true) : make("p", {}, `${actionName(next.action)}, by you`);
    this.chosen.replaceChildren(title, done);
  }
}

// What is seen, where nothing can be drawn.
function cellsOf(observation) {
  const rows = Object.entries(observation).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value === null ? "–" : typeof value === "number" ? number(value) : value)));
  return make("dl", { class: "seen" }, ...rows);
}

const number = (value) => String(Math.round(1000 * value) / 1000);
const actionName = (name) => name.replaceAll("_", " ").toLowerCase();
const worldName = (name) => name.replace(/^gymnasium:/, "").replace(/\?.*$/, "").split(":").at(-1);

// A board to play against the model. Moves of both sides are actions of its world (/v1/play), whose
// scene is {"kind": "board", "fen", "moves": {"e2e4": its action, …}, "told"}: the legal moves, as
// the board has them and as the model is asked about them.

import { getJson } from "../parts/api.js";
import { announce, button, fill, make } from "../parts/dom.js";
import { Board } from "../parts/board.js";
import { bars } from "../parts/tokens.js";
import { Room } from "./room.js";

const MOST_SHOWN = 6; // moves that the model thought of

export class Chess extends Room {
  path = "/v1/play";
  moves = []; // of both sides, as actions
  #shown = []; // the same, as the board has them
  #frame = null;

  constructor() {
    super({ name: "chess", title: "Chess", heading: "Play against it", verb: "New game", tasks: ["chess"] });
    this.board = new Board({ move: (move) => this.#move(move) });
    this.said = make("p", { class: "said", role: "status" });
    this.list = make("ol", { class: "moves-list", aria: { label: "Moves" } });
    this.thought = make("div", { class: "choice" });
    this.back = button("Take back", () => this.#back());
    this.stage = make("div", { class: "stage" },
      make("div", {}, this.board.node),
      make("div", {}, make("div", { class: "row" }, this.said, make("span", { class: "spring" }), this.back), this.thought, this.list));
  }

  taskOf(model) {
    return (model.tasks ?? []).find((task) => this.tasks.includes(task.task) && task.worlds.length);
  }

  build() {
    this.side = make("select", { id: "chess-side", on: { change: () => this.go() } });
    fill(this.side, [["white", "white"], ["black", "black"]]);
    this.input.replaceChildren(make("div", { class: "row" }, make("label", { for: "chess-side" }, "You play"), this.side));
    this.moves = [];
    this.#frame = null;
    this.changed({ now: true });
  }

  ready() {
    return Boolean(this.side);
  }

  async body() {
    return this.#body(this.moves, 1);
  }

  #body(actions, steps) {
    return { model: this.model.id, world: this.task.worlds[0], seed: 0, actions, steps };
  }

  async ask(signal) {
    await this.#to([], this.#mine, signal);
  }

  // The game after these moves, and as many more of the model's.
  async #to(moves, steps, signal) {
    const told = await getJson(this.path, { body: this.#body(moves, steps), signal });
    if (signal.aborted) return;
    const added = told.frames.slice(1).map(({ action }) => action);
    this.moves = [...moves, ...added];
    if (!moves.length) this.#shown = [];
    this.#shown.length = Math.min(this.#shown.length, moves.length);
    // what the model did is named by the legal moves of the frame before
    added.forEach((action, n) => this.#shown.push(nameOf(told.frames[n], action)));
    this.#show(told);
  }

  async #run(moves, steps) {
    await this.turn.run(async (signal) => {
      try {
        await this.#to(moves, steps, signal);
      } catch (error) {
        this.#shown.length = this.moves.length; // what was not answered is not made
        if (this.#frame) this.#draw(this.#frame);
        if (!signal.aborted) this.said.textContent = error.message;
      }
    });
  }

  #move(move) {
    if (this.turn.running) return;
    this.#shown.push(move);
    this.board.put(move);
    this.said.textContent = "The model thinks…";
    this.#run([...this.moves, this.#frame.scene.moves[move]], 1);
  }

  get #mine() {
    return this.side.value === "black" ? 1 : 0; // of two moves the one that is the person's
  }

  // Before the person's last move.
  #back() {
    const keep = this.moves.length - (this.moves.length % 2 === this.#mine ? 2 : 1);
    if (!this.turn.running && keep >= this.#mine) this.#run(this.moves.slice(0, keep), 0);
  }

  #show(told) {
    const frame = told.frames.at(-1);
    this.#frame = frame;
    if (!this.stage.isConnected) this.result.replaceChildren(this.stage);
    this.#draw(frame);
    if (told.fault) this.said.textContent = `It cannot go on: ${told.fault}`;
    const before = told.frames.at(-2);
    const thought = frame.choices.slice(0, MOST_SHOWN).map(({ action, probability }) => ({ text: nameOf(before, action), logprob: Math.log(probability) }));
    this.thought.hidden = !thought.length;
    this.thought.replaceChildren(make("h2", {}, "What it thought of"), bars(thought, this.#shown.at(-1), true));
    if (thought.length) announce(`The model plays ${this.#shown.at(-1)}`);
    const pairs = Array.from({ length: Math.ceil(this.#shown.length / 2) }, (_, n) => this.#shown.slice(2 * n, 2 * n + 2).join(" "));
    this.list.replaceChildren(...pairs.map((pair) => make("li", {}, pair)));
    this.list.scrollTop = this.list.scrollHeight;
  }

  #draw(frame) {
    const mayMove = !frame.has_ended && this.moves.length % 2 === this.#mine;
    this.board.show({
      fen: frame.scene.fen ?? "8/8/8/8/8/8/8/8", moves: mayMove ? Object.keys(frame.scene.moves ?? {}) : [], last: this.#shown.at(-1) ?? "",
      isTurned: this.side.value === "black",
    });
    this.back.disabled = this.moves.length <= this.#mine;
    this.said.classList.toggle("well", frame.has_ended);
    this.said.textContent = [frame.scene.told, frame.has_ended ? "The game is over." : ""].filter(Boolean).join(" · ");
  }
}

// A move as the board has it, of the action that a model took in a frame.
function nameOf(frame, action) {
  return Object.entries(frame?.scene.moves ?? {}).find(([, each]) => each === action)?.[0] ?? action;
}

// Of which kind is each word of a text? Each is asked about among its neighbours, many in a request.

import { getJson } from "../parts/api.js";
import { make } from "../parts/dom.js";
import { bars, percent } from "../parts/tokens.js";
import { Room, exampleButtons, short } from "./room.js";

const MOST_INPUTS = 64; // of one request
const MOST_WORDS = 320;
const MOST_TAGS = 6; // of a word, told of it
const COLOURS = 12; // of tags: see rooms.css
const WINDOW = 3; // neighbours on each side, where the model does not say
const PAUSE_MS = 350;
const HERE = "_"; // in the place of the word that is asked about
const WORD = /\p{L}[\p{L}\p{M}\p{N}]*(?:['’.-][\p{L}\p{M}\p{N}]+)*|\p{N}+(?:[.,:]\p{N}+)*|[^\s\p{L}\p{N}]/gu;
const ENDS = new Set([".", "!", "?", "…"]); // of sentences

export class Tags extends Room {
  path = "/v1/classify";
  pause = PAUSE_MS;

  constructor() {
    super({
      name: "tags", title: "Tag", heading: "What kind of word is each?", verb: "Tag",
      tasks: ["token-classification"],
    });
  }

  build() {
    this.area = make("textarea", {
      id: "tags-text", rows: 4, placeholder: "Write a sentence or two", autocomplete: "off", aria: { label: "Text" },
      on: { input: () => this.changed() },
    });
    const examples = exampleButtons(this.task.examples, (example) => short(sentenceOf(example), 24), (example) => {
      this.area.value = sentenceOf(example);
      this.changed({ now: true });
    });
    this.input.replaceChildren(...[examples].filter(Boolean), this.area);
  }

  ready() {
    return /\S/.test(this.area?.value ?? "");
  }

  #questions() {
    const window = Number(this.task.options.window) || WINDOW;
    const found = sentencesOf(this.area.value).flatMap((words) => words.map((word, place) => ({ ...word, question: questionOf(words, place, window) })));
    return found.slice(0, MOST_WORDS);
  }

  #body(words) {
    const input = words.map(({ question }) => ({ codec: this.task.asked[0], text: question }));
    return { model: this.model.id, input, codec: this.task.answer, top: MOST_TAGS };
  }

  async body() {
    return this.#body(this.#questions().slice(0, MOST_INPUTS));
  }

  async ask(signal) {
    const text = this.area.value;
    const words = this.#questions();
    for (let first = 0; first < words.length && !signal.aborted; first += MOST_INPUTS) {
      const some = words.slice(first, first + MOST_INPUTS);
      const { data } = await getJson(this.path, { body: this.#body(some), signal });
      data.forEach((found, n) => { some[n].found = found; });
      if (!signal.aborted) this.#show(text, words);
    }
  }

  // The text as it was written, its words in the colours of their tags.
  #show(text, words) {
    const counts = new Map();
    for (const { found } of words) if (found) counts.set(found.label, (counts.get(found.label) ?? 0) + 1);
    const tags = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a) || a.localeCompare(b));
    const colour = (tag) => `tag-${tags.indexOf(tag) % COLOURS}`;
    const view = make("div", { class: "tagged", role: "group", aria: { label: "The words and their tags" } });
    const detail = make("div", { class: "choice", hidden: true });
    let end = 0;
    words.forEach((word, place) => {
      view.append(text.slice(end, word.at));
      end = word.at + word.text.length;
      if (!word.found) return void view.append(word.text);
      const { label, classes } = word.found;
      const node = make("span", {
        class: `word ${colour(label)}`, tabIndex: place ? -1 : 0, role: "note",
        aria: { label: `${word.text}: ${label}, ${percent(classes[0].probability)}` },
      }, make("span", {}, word.text), make("small", { aria: { hidden: "true" } }, label));
      const tell = () => {
        const shares = classes.map((each) => ({ text: each.label, logprob: Math.log(each.probability) }));
        detail.replaceChildren(make("p", {}, make("b", {}, word.text)), bars(shares, label, true));
        detail.hidden = false;
      };
      node.addEventListener("pointerenter", tell);
      node.addEventListener("focus", tell);
      node.addEventListener("click", tell);
      view.append(node);
    });
    view.append(text.slice(end));
    view.addEventListener("keydown", walk);
    const legend = make("ul", { class: "legend", aria: { label: "Tags" } },
      ...tags.map((tag) => make("li", { class: colour(tag) }, tag, make("small", {}, ` ${counts.get(tag)}`))));
    this.result.replaceChildren(view, legend, make("p", { class: "note" }, "Point at a word, or walk with the arrow keys, to see its other tags."), detail);
  }
}

function walk(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const nodes = [...event.currentTarget.querySelectorAll(".word")];
  const next = nodes[nodes.indexOf(document.activeElement) + step];
  if (!step || !next) return;
  event.preventDefault();
  for (const node of nodes) node.tabIndex = node === next ? 0 : -1;
  next.focus();
}

// [[{text, at}, …] of each sentence]
function sentencesOf(text) {
  const sentences = [[]];
  for (const match of text.matchAll(WORD)) {
    sentences.at(-1).push({ text: match[0], at: match.index });
    if (ENDS.has(match[0])) sentences.push([]);
  }
  return sentences.filter((words) => words.length);
}

// How the field `tags` asks about a word: its neighbours with a mark in its place, then the word.
function questionOf(words, place, window) {
  const texts = words.map(({ text }) => text);
  const [left, right] = [texts.slice(Math.max(0, place - window), place), texts.slice(place + 1, place + 1 + window)];
  return ` ${[...left, HERE, ...right].join(" ")}\n ${texts[place]}`;
}

// The words of a held-out question, the one asked about in its place.
function sentenceOf({ asked: [{ text }] }) {
  const [around, word] = text.split("\n");
  return around.trim().split(" ").map((each) => (each === HERE ? (word ?? "").trim() : each)).join(" ");
}

// The conversation: messages, answers as they grow, calls of tools and what a person returns.

import { answerOf } from "./api.js";
import { AnswerView } from "./answer.js";
import { showCode } from "./code.js";
import { at, button, clearError, make, showError } from "./dom.js";
import { chatBody, readSettings } from "./settings.js";
import { hideTip } from "./tokens.js";
import { callsAsMessage, resultForm } from "./tools.js";
import { Turn, grow } from "./turns.js";

const PATH = "/v1/chat/completions";
const IDEAS = ["Explain what a whorl is, in two sentences.", "Write a haiku about a small machine.", "List three uses of a paper clip."];

export class Chat {
  messages = []; // as requests have them
  model = null;

  constructor() {
    this.turn = new Turn("chat-send", "chat-stop");
    at("chat-form").addEventListener("submit", (event) => { event.preventDefault(); this.say(); });
    at("chat-input").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.say();
    });
    at("chat-new").addEventListener("click", () => this.clear());
    at("chat-code").addEventListener("click", () => this.code());
    this.clear();
  }

  use(model) {
    this.model = model;
    this.turn.allow(true);
  }

  clear() {
    this.turn.abort();
    hideTip();
    this.messages = [];
    const ideas = IDEAS.map((idea) => button(idea, () => {
      at("chat-input").value = idea;
      at("chat-input").focus();
    }));
    at("chat-log").replaceChildren(
      make("div", { class: "empty" }, make("h2", {}, "What would you like to know?"), make("div", { class: "ideas" }, ...ideas)),
    );
    if (matchMedia("(pointer: fine)").matches) at("chat-input").focus();
  }

  async say() {
    const text = at("chat-input").value.trim();
    if (!text || this.turn.running || !this.model) return;
    clearError();
    this.#log(make("article", { class: "message person", aria: { label: "You" } },
      make("p", { class: "unseen" }, "You"), make("div", { class: "body said" }, text)));
    this.messages.push({ role: "user", content: text });
    at("chat-input").value = "";
    await this.ask();
  }

  // Asks for the next answer to the messages so far.
  async ask() {
    let settings;
    try {
      settings = readSettings();
    } catch (error) {
      showError(error);
      return;
    }
    const body = chatBody(this.model, settings, this.messages);
    const before = this.messages.length;
    const again = (view) => this.#again(view, before);
    const { model } = this;
    const view = new AnswerView({
      who: model.id, model, asked: { messages: body.messages }, schema: settings.schema, again,
    });
    this.#log(view.node);
    const messages = this.messages; // a new chat may begin meanwhile
    await this.turn.run(async (signal) => {
      await grow(view, answerOf(PATH, body, signal), signal);
      if (view.text || view.calls.length) messages.push(answerMessage(view));
      if (view.finish && view.calls.length) this.#wantResults(view, messages);
      if (view.error?.code === "no_chat") this.#offerWayOut(view);
    });
    if (!view.node.querySelector(".results")) at("chat-input").focus({ preventScroll: true });
  }

  code() {
    try {
      const messages = this.messages.at(-1)?.role === "assistant" ? this.messages.slice(0, -1) : this.messages;
      const draft = at("chat-input").value.trim() || "Hello";
      const asked = messages.length ? messages : [{ role: "user", content: draft }];
      showCode(PATH, chatBody(this.model ?? { id: "MODEL" }, readSettings(), asked));
    } catch (error) {
      showError(error);
    }
  }

  #again(view, before) {
    if (this.turn.running) return;
    this.messages.length = before;
    while (at("chat-log").lastElementChild !== view.node) at("chat-log").lastElementChild.remove();
    view.node.remove();
    this.ask();
  }

  #wantResults(view, messages) {
    const form = resultForm(view.calls, (results) => {
      if (this.turn.running || messages !== this.messages) return;
      form.remove();
      view.calls.forEach((call, n) => {
        messages.push({ role: "tool", tool_call_id: call.id, content: results[n] });
        this.#log(make("article", { class: "message person", aria: { label: `Result of ${call.name}` } },
          make("p", { class: "who" }, `Result of ${call.name}`), make("div", { class: "body said mono" }, results[n])));
      });
      this.ask();
    });
    view.node.append(form);
    form.querySelector("textarea").focus();
  }

  // A model without a chat template can still go on from a text.
  #offerWayOut(view) {
    const go = button("Go to Complete", () => at("tab-complete").click(), { class: "quiet" });
    view.node.querySelector(".failed .row").append(go);
  }

  #log(node) {
    at("chat-log").querySelector(".empty")?.remove();
    at("chat-log").append(node);
    node.scrollIntoView({ block: "end" });
  }
}

function answerMessage(view) {
  const message = { role: "assistant", content: view.text };
  if (view.calls.length) message.tool_calls = callsAsMessage(view.calls);
  return message;
}

// Going on from a prompt: a text, or parts of the model's codecs.

import { answerOf } from "./api.js";
import { AnswerView } from "./answer.js";
import { showCode } from "./code.js";
import { at, button, clearError, fill, make, showError } from "./dom.js";
import { canEdit, inputOf } from "./inputs.js";
import { TOP, completionBody, readSettings } from "./settings.js";
import { Turn, grow } from "./turns.js";

const PATH = "/v1/completions";
const MOST = 20; // alternatives that may be asked for
const IDS = "token ids";
const ANSWER = "<|answer|>"; // the special token between what is asked and its answer

export class Complete {
  model = null;
  inputs = []; // of a model that takes parts

  constructor() {
    this.turn = new Turn("generate", "stop");
    at("form").addEventListener("submit", (event) => { event.preventDefault(); this.go(); });
    at("complete-code").addEventListener("click", () => this.code());
    at("part-add").addEventListener("click", () => this.#add(at("part-kind").value));
  }

  use(model) {
    this.model = model;
    this.turn.allow(true);
    const codecs = (model.codecs ?? []).map((codec) => ({ ...codec, ...model.inputs?.[codec.name] }));
    this.codecs = codecs;
    this.takesText = codecs.length === 0 || (codecs.length === 1 && codecs[0].media_type.startsWith("text/"));
    at("text-input").hidden = !this.takesText;
    at("parts-input").hidden = this.takesText;
    if (this.takesText) {
      at("prompt").value ||= model.example_prompt ?? "";
      return;
    }
    const special = { name: "special", media_type: "application/x-choice", choices: model.special ?? [] };
    this.editable = [...codecs.filter(canEdit), special];
    const kinds = this.editable.map((codec) => [codec.name, codec.name]);
    fill(at("part-kind"), [...kinds, [IDS, IDS]]);
    fill(at("answer-codec"), [["", "anything"], ...codecs.map((codec) => [codec.name, codec.name])], this.#likelyAnswer());
    at("parts").replaceChildren();
    this.inputs = [];
    const sound = codecs.find((codec) => codec.media_type.startsWith("audio/")); // what is said in it?
    this.#add(sound?.name ?? kinds[0][0]);
    if (!this.#likelyAnswer() && !sound) return;
    at("temperature").value = 0;
    if (special.choices.includes(ANSWER)) this.#add("special").node.value = ANSWER;
  }

  // A choice is what one asks of a model that has choices.
  #likelyAnswer() {
    return this.codecs.find((codec) => codec.media_type === "application/x-choice")?.name ?? "";
  }

  #add(name) {
    const codec = this.editable.find((each) => each.name === name);
    const input = name === IDS ? idsInput() : inputOf(codec, () => {});
    const item = make("li", {}, make("div", { class: "row" }, make("b", {}, name), make("span", { class: "spring" }),
      button("Remove", () => {
        this.inputs.splice(this.inputs.indexOf(input), 1);
        item.remove();
      }, { class: "quiet", aria: { label: `Remove ${name}` } })), input.node);
    this.inputs.push(input);
    at("parts").append(item);
    return input;
  }

  async body() {
    const settings = readSettings();
    const prompt = this.takesText ? at("prompt").value : await this.#parts();
    const body = completionBody(this.model, settings, prompt);
    const codec = this.takesText ? null : this.codecs.find((each) => each.name === at("answer-codec").value);
    if (codec) {
      body.answer_codec = codec.name;
      if (codec.choices && body.logprobs) body.logprobs = Math.min(MOST, codec.choices.length + TOP);
      if (codec.value_ids) body.max_tokens = Math.min(body.max_tokens, codec.value_ids);
    }
    return [body, settings, codec?.choices ?? null];
  }

  async #parts() {
    if (!this.inputs.length) throw new Error("Add a part to the prompt first.");
    if (!this.inputs.every((input) => input.ready())) throw new Error("One part of the prompt is empty.");
    const parts = await Promise.all(this.inputs.map((input) => input.part()));
    const ids = parts.filter((part) => Array.isArray(part));
    if (!ids.length) return parts;
    if (parts.length > 1) throw new Error("Token ids are a whole prompt: remove the other parts.");
    return ids[0];
  }

  async go() {
    if (this.turn.running || !this.model) return;
    clearError();
    const { model } = this;
    try {
      const [body, settings, choices] = await this.body();
      const view = new AnswerView({
        who: model.id, model, asked: { prompt: body.prompt }, form: "plain", schema: settings.schema,
        choices, echo: this.takesText ? body.prompt : "", again: () => this.go(),
      });
      at("completion").replaceChildren(view.node);
      await this.turn.run((signal) => grow(view, answerOf(PATH, body, signal), signal));
    } catch (error) {
      showError(error);
    }
  }

  async code() {
    try {
      const [body] = await this.body();
      await showCode(PATH, body);
    } catch (error) {
      showError(error);
    }
  }
}

// Token ids as they are: for what no other input can say.
function idsInput() {
  const area = make("textarea", {
    class: "mono", rows: 3, inputMode: "numeric", spellcheck: false, placeholder: "1, 20, 21 …",
    aria: { label: "Token ids, separated by commas or spaces" },
  });
  const part = async () => {
    const ids = area.value.split(/[\s,]+/).filter(Boolean).map(Number);
    if (!ids.every((id) => Number.isInteger(id) && id >= 0)) {
      throw new Error("The prompt must be token ids: whole numbers, separated by commas or spaces.");
    }
    return ids;
  };
  return { node: area, part, ready: () => area.value.trim() !== "" };
}

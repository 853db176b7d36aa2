// Of which class is an image? It is asked whenever the image changes, and answered with bars.

import { getJson } from "./api.js";
import { showCode } from "./code.js";
import { at, clearError, make, showError } from "./dom.js";
import { inputOf } from "./inputs.js";
import { bars } from "./tokens.js";
import { Turn } from "./turns.js";

const PATH = "/v1/classify";
const PAUSE_MS = 200; // after the last stroke
const MOST = 20; // classes that are shown

const isClosed = (codec) => codec.media_type === "application/x-choice";

// The codec of what is asked, of a model that sees images and has one kind of classes; else null.
export function seenBy(model) {
  const codecs = (model.codecs ?? []).map((codec) => ({ ...codec, ...model.inputs?.[codec.name] }));
  const image = codecs.find((codec) => codec.media_type.startsWith("image/"));
  return image && codecs.filter(isClosed).length === 1 ? image : null;
}

export class Classify {
  model = null;
  input = null;
  #waiting = 0;

  constructor() {
    this.turn = new Turn("classify-go", "classify-stop");
    at("classify-form").addEventListener("submit", (event) => { event.preventDefault(); this.go(); });
    at("classify-code").addEventListener("click", () => this.code());
  }

  use(model) {
    this.model = model;
    this.input = inputOf(seenBy(model), () => this.#changed());
    at("classify-input").replaceChildren(this.input.node);
    at("classes").replaceChildren();
    this.turn.allow(false);
  }

  async go() {
    clearTimeout(this.#waiting);
    if (!this.input?.ready()) return;
    this.turn.abort();
    clearError();
    await this.turn.run(async (signal) => {
      try {
        const { data, usage } = await getJson(PATH, { body: await this.#body(), signal });
        this.#show(data[0], usage);
      } catch (error) {
        if (!signal.aborted) showError(error);
      }
    });
  }

  async code() {
    if (this.input?.ready()) showCode(PATH, await this.#body());
  }

  #changed() {
    const ready = this.input.ready();
    this.turn.allow(ready);
    clearTimeout(this.#waiting);
    if (ready) this.#waiting = setTimeout(() => this.go(), PAUSE_MS);
    else at("classes").replaceChildren();
  }

  async #body() {
    return { model: this.model.id, input: await this.input.part(), top: MOST };
  }

  #show(found, usage) {
    const shares = found.classes.map(({ label, probability }) => ({ text: label, logprob: Math.log(probability) }));
    const left = found.num_classes - shares.length;
    at("classes").replaceChildren(make(
      "div",
      { class: "choice" },
      make("p", { class: "chosen" }, found.label),
      bars(shares, found.label),
      make("p", { class: "note" }, left ? `The likeliest of ${found.num_classes} classes.` : `${usage.prompt_tokens} tokens were read.`),
    ));
  }
}

// The sound of a text, to hear and to keep.

import { send } from "../parts/api.js";
import { button, make } from "../parts/dom.js";
import { Room } from "./room.js";

const MOST_SIGNS = 4096;
const WAVE = [640, 90]; // pixels
const KEPT_MS = 60_000; // until a sound must have been saved

export class Speak extends Room {
  path = "/v1/audio/speech";

  constructor() {
    super({ name: "speak", title: "Speak", heading: "What is to be said?", verb: "Say it", tasks: ["text-to-speech"] });
  }

  build() {
    this.area = make("textarea", {
      id: "speak-text", rows: 3, maxLength: MOST_SIGNS, placeholder: "Write a sentence", autocomplete: "off",
      aria: { label: "Text" }, on: { input: () => this.turn.allow(this.ready()) },
    });
    this.input.replaceChildren(this.area);
  }

  ready() {
    return Boolean(this.area?.value.trim());
  }

  async body() {
    return { model: this.model.id, input: this.area.value.trim(), voice: "default", response_format: "wav" };
  }

  async ask(signal) {
    const bytes = await (await send(this.path, { body: await this.body(), signal })).arrayBuffer();
    const sound = await new OfflineAudioContext(1, 1, 16000).decodeAudioData(bytes.slice(0));
    if (signal.aborted) return;
    const wave = make("canvas", { class: "wave", role: "img", width: WAVE[0], height: WAVE[1], aria: { label: `${sound.duration.toFixed(1)} seconds of sound` } });
    this.result.replaceChildren(make("div", { class: "choice wide" }, wave,
      make("div", { class: "row" }, button("Play", () => play(sound), { class: "main" }), button("Save", () => save(bytes)), make("span", { class: "note" }, `${sound.duration.toFixed(1)} s`))));
    drawWave(wave, sound.getChannelData(0));
    if (!this.panel.hidden) play(sound);
  }
}

// Played here, with no address that would have to be allowed.
function play(sound) {
  const context = new AudioContext();
  const source = context.createBufferSource();
  source.buffer = sound;
  source.connect(context.destination);
  source.onended = () => context.close();
  source.start();
}

function save(bytes) {
  const address = URL.createObjectURL(new Blob([bytes], { type: "audio/wav" }));
  make("a", { href: address, download: "speech.wav" }).click();
  setTimeout(() => URL.revokeObjectURL(address), KEPT_MS);
}

// Its loudest sample in each column.
function drawWave(canvas, samples) {
  const [width, height] = WAVE;
  const context = canvas.getContext("2d");
  context.fillStyle = getComputedStyle(canvas).color;
  const most = samples.reduce((best, each) => Math.max(best, Math.abs(each)), 0) || 1;
  for (let x = 0; x < width; x += 2) {
    let peak = 0;
    for (let n = Math.floor((x * samples.length) / width); n < ((x + 2) * samples.length) / width; n += 1) peak = Math.max(peak, Math.abs(samples[n] ?? 0));
    const tall = Math.max(1, (peak / most) * height);
    context.fillRect(x, (height - tall) / 2, 1.4, tall);
  }
}

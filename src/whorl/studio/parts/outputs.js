// Answers that are no text: each part by its codec's media type.

import { make } from "./dom.js";
import { bars } from "./tokens.js";

const MIN_SHOWN_PX = 160; // an image of few pixels is shown larger

const bytesOf = (base64) => Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));

export function shownParts(answer) {
  if (answer.partsError) {
    return [make("p", { class: "note" }, `The answer is no value of its codec: ${answer.partsError}`)];
  }
  return answer.parts.map((part) => {
    const show = Object.entries(SHOWN).find(([type]) => part.media_type.startsWith(type))?.[1] ?? anyPart;
    return show(part, answer);
  });
}

// Media types that the page can show, by how they begin.
const SHOWN = {
  "text/": (part) => make("p", { class: "plain" }, new TextDecoder().decode(bytesOf(part.data))),
  "application/x-choice": choicePart,
  "image/": imagePart,
  "audio/": soundPart,
};

function choicePart(part, answer) {
  const chosen = new TextDecoder().decode(bytesOf(part.data));
  const box = make("div", { class: "choice" }, make("p", { class: "chosen" }, chosen));
  const shares = sharesOf(answer.tokens[0]?.top ?? [], answer.choices ?? []);
  if (shares.length > 1) box.append(bars(shares, chosen), make("p", { class: "note" }, "Shares among these answers."));
  return box;
}

// Of the alternatives only those that could be answered, so that they add up to one.
function sharesOf(top, choices) {
  const possible = top.filter(({ text }) => choices.includes(text));
  const all = possible.reduce((sum, { logprob }) => sum + Math.exp(logprob), 0);
  return possible.map(({ text, logprob }) => ({ text, logprob: logprob - Math.log(all) }));
}

function imagePart(part) {
  const canvas = make("canvas", { class: "pixels", role: "img", aria: { label: "The image that was generated" } });
  drawPng(bytesOf(part.data), canvas).catch(() => canvas.replaceWith("This image cannot be shown."));
  return canvas;
}

async function drawPng(bytes, canvas) {
  const image = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  const times = Math.max(1, Math.ceil(MIN_SHOWN_PX / image.width));
  canvas.width = image.width * times;
  canvas.height = image.height * times;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
}

// Sound is decoded and played here, with no address that would have to be allowed.
function soundPart(part) {
  const play = make("button", { type: "button" }, "Play");
  play.addEventListener("click", async () => {
    const context = new AudioContext();
    try {
      const source = context.createBufferSource();
      source.buffer = await context.decodeAudioData(bytesOf(part.data).buffer);
      source.connect(context.destination);
      source.start();
      source.onended = () => context.close();
    } catch {
      play.replaceWith("This sound cannot be played here.");
    }
  });
  return make("p", {}, play);
}

function anyPart(part) {
  const num_bytes = bytesOf(part.data).length;
  return make("p", { class: "note" }, `${part.codec}: ${num_bytes} bytes of ${part.media_type}`);
}

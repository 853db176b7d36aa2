// Where is what on an image? The boxes are drawn on what the model was shown.

import { answerOf } from "../parts/api.js";
import { make } from "../parts/dom.js";
import { Written } from "./written.js";

const LEAST_PX = 320; // of a picture's side
const COLOURS = 12; // see rooms.css

export class Find extends Written {
  constructor() {
    super({ name: "find", title: "Find", heading: "What is to be found?", verb: "Find", tasks: ["object-detection"] });
  }

  async ask(signal) {
    const body = await this.body();
    const picture = await pictureOf(this.editor.node.querySelector("canvas"));
    const list = make("ul", { class: "legend", aria: { label: "What was found" } });
    this.result.replaceChildren(make("div", { class: "choice wide" }, picture, list));
    let text = "";
    const kinds = [];
    for await (const piece of answerOf(this.path, body, signal)) {
      text += piece.text;
      drawn(picture, list, boxesIn(text).slice(list.children.length), kinds);
    }
    if (!list.children.length) list.append(make("li", {}, "Nothing was found."));
  }
}

// A copy of what the model is shown, large enough to draw on.
async function pictureOf(shown) {
  const times = Math.max(1, Math.ceil(LEAST_PX / shown.width));
  const canvas = make("canvas", { class: "pixels", role: "img", width: shown.width * times, height: shown.height * times, aria: { label: "The image and what was found on it" } });
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(shown, 0, 0, canvas.width, canvas.height);
  return canvas;
}

// Whole lines of {"box": [left, top, right, bottom], "label"}, sides as shares of the image.
function boxesIn(text) {
  return text.split("\n").flatMap((line) => {
    try {
      const { box, label } = JSON.parse(line);
      return Array.isArray(box) && box.length === 4 ? [{ box, label: String(label) }] : [];
    } catch {
      return []; // not whole yet
    }
  });
}

function drawn(canvas, list, boxes, kinds) {
  const context = canvas.getContext("2d");
  for (const { box: [left, top, right, bottom], label } of boxes) {
    if (!kinds.includes(label)) kinds.push(label);
    const item = make("li", { class: `tag-${kinds.indexOf(label) % COLOURS}` }, label);
    list.append(item);
    context.strokeStyle = context.fillStyle = getComputedStyle(item).getPropertyValue("--tag").trim();
    context.lineWidth = Math.max(2, canvas.width / 160);
    const [x, y] = [left * canvas.width, top * canvas.height];
    context.strokeRect(x, y, (right - left) * canvas.width, (bottom - top) * canvas.height);
    named(context, label, x, y, Math.max(12, Math.round(canvas.width / 30)));
  }
}

// A name on a plate of the box's colour: above the box, or where there is no room in it.
function named(context, label, x, y, px) {
  context.font = `600 ${px}px sans-serif`;
  const [width, height] = [context.measureText(label).width + px, 1.4 * px];
  const [at, top] = [Math.max(0, Math.min(x, context.canvas.width - width)), y >= height ? y - height : y];
  context.fillRect(at, top, width, height);
  context.fillStyle = "#fff";
  context.fillText(label, at + px / 2, top + 1.05 * px);
}

// Things that were found on an image: their boxes drawn on it, and a list.

import { make } from "./dom.js";

const MIN_SHOWN_PX = 320; // an image of few pixels is shown larger
const COLOURS = ["#6cc5cb", "#efb118", "#ff725c", "#97bbf5", "#3ca951", "#ff8ab7", "#a463f2"];

// lines: JSON, a box each, sides as shares of the image; image: its PNG as bytes, or null.
export function boxesShown(lines, image) {
  const boxes = lines.split("\n").filter(Boolean).map((line) => JSON.parse(line));
  const list = make("ol", {}, ...boxes.map(({ box, label }, n) => {
    const name = make("b", {}, label);
    name.style.color = COLOURS[n % COLOURS.length];
    return make("li", {}, name, ` ${box.map((side) => Math.round(100 * side)).join(" ")}`);
  }));
  const told = boxes.length ? "Left, top, right, bottom in hundredths of the image." : "Nothing was found.";
  const note = make("p", { class: "note" }, told);
  if (!image) return make("div", {}, list, note);
  const words = boxes.map(({ label }) => label).join(", ") || "nothing";
  const canvas = make("canvas", { class: "pixels", role: "img", aria: { label: `The image with boxes: ${words}` } });
  draw(canvas, image, boxes).catch(() => canvas.replaceWith("This image cannot be shown."));
  return make("div", {}, canvas, list, note);
}

async function draw(canvas, bytes, boxes) {
  const image = await createImageBitmap(new Blob([bytes]));
  const times = Math.max(1, Math.ceil(MIN_SHOWN_PX / image.width));
  canvas.width = image.width * times;
  canvas.height = image.height * times;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  context.lineWidth = 3;
  boxes.forEach(({ box: [left, top, right, bottom] }, n) => {
    context.strokeStyle = COLOURS[n % COLOURS.length];
    context.strokeRect(
      left * canvas.width, top * canvas.height, (right - left) * canvas.width, (bottom - top) * canvas.height,
    );
  });
}

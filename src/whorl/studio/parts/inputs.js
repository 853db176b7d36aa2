// Inputs by a codec's media type: each is an editor {node, part(), ready()} of one part of a prompt.

import { camera } from "./camera.js";
import { button, make } from "./dom.js";
import { base64, greyPng } from "./png.js";
import { soundInput } from "./sound.js";

const MAX_DRAWN = 64; // pixels a side that one can draw by hand
const PAD_PX = 256; // about so wide: a pixel of the image is a whole number of the pad's
const BRUSH = [[0, 0, 1], [1, 0, 0.35], [-1, 0, 0.35], [0, 1, 0.35], [0, -1, 0.35]];

// Media types that the page takes, by how they begin.
const EDITORS = {
  "text/": textInput, "image/": imageInput, "audio/": soundInput, "application/x-choice": choiceInput,
};

export function canEdit(codec) {
  return Object.keys(EDITORS).some((type) => codec.media_type.startsWith(type));
}

export function inputOf(codec, changed) {
  const editor = Object.entries(EDITORS).find(([type]) => codec.media_type.startsWith(type))[1];
  return editor(codec, changed);
}

function textInput(codec, changed) {
  const area = make("textarea", {
    class: "mono", rows: 4, spellcheck: false, on: { input: changed }, aria: { label: `${codec.name}: text` },
  });
  return { node: area, part: async () => ({ codec: codec.name, text: area.value }), ready: () => area.value !== "" };
}

// A label: one of those that the server tells, or typed.
function choiceInput(codec, changed) {
  const label = { aria: { label: `${codec.name}: one of its values` }, on: { input: changed } };
  const input = codec.choices
    ? make("select", label, ...codec.choices.map((each) => make("option", {}, each)))
    : make("input", { type: "text", ...label });
  return { node: input, part: async () => ({ codec: codec.name, text: input.value }), ready: () => input.value !== "" };
}

// A grey image: drawn by pointer or keys, pasted, dropped, or from a file.
function imageInput(codec, changed) {
  const { width, height } = codec;
  if (!width || !height) return fileInput(codec, changed);
  if (codec.channels > 1) return photoInput(codec, changed);
  const pad = new Pad(width, height, codec.name, changed);
  const invert = make("input", { type: "checkbox" });
  const note = status(`Draw here, ${width} × ${height} pixels; or paste, drop or choose an image. `
    + "With keys: arrows move, Space paints, Delete clears.");
  const take = decoding((image, bytes, name) => {
    note.say(image ? null : notTaken(name));
    if (image) pad.draw(image, invert.checked);
  });
  const chooser = takesFiles(pad.canvas, codec.name, take);
  const node = make(
    "div",
    { class: "image-input" },
    pad.canvas,
    make(
      "div",
      { class: "beside" },
      note.node,
      chooser,
      camera(take),
      make("label", { class: "check" }, invert, " dark on light: turn it round"),
      button("Clear", () => pad.clear()),
    ),
  );
  const part = async () => ({ codec: codec.name, data: base64(await greyPng(pad.bytes(), width, height)) });
  return { node, part, ready: () => pad.levels.some((level) => level > 0) };
}

// A chooser of files; what is pasted into or dropped on the canvas is taken too.
function takesFiles(canvas, name, take) {
  const chooser = make("input", { type: "file", accept: "image/*", aria: { label: `${name}: a file` } });
  const first = (files) => files[0] && take(files[0]);
  chooser.addEventListener("change", () => first(chooser.files));
  canvas.addEventListener("drop", (event) => {
    event.preventDefault();
    first(event.dataTransfer.files);
  });
  canvas.addEventListener("dragover", (event) => event.preventDefault());
  canvas.addEventListener("paste", (event) => first(event.clipboardData.files));
  return chooser;
}

// Gives a function of a file that decodes it; of several chosen in a row the last alone is shown.
// show(image, bytes, name): image is null where the browser cannot decode it.
function decoding(show) {
  let taken = 0;
  return async (file) => {
    const number = ++taken;
    const bytes = new Uint8Array(await file.arrayBuffer());
    const image = await createImageBitmap(file).catch(() => null);
    if (number === taken) show(image, bytes, file.name ?? "the photograph"); // else a later one came
  };
}

// A note that says something else for a while: say(null) says what it began with.
function status(text) {
  const node = make("p", { class: "note", role: "status" }, text);
  return { node, say: (other) => (node.textContent = other ?? text) };
}

function notTaken(name) {
  return `This browser cannot read ${name} as an image: it was not taken.`;
}

// An image in colours: pasted, dropped, or from a file, made as small as the model sees it.
function photoInput(codec, changed) {
  const { name, width, height } = codec;
  const canvas = make("canvas", {
    class: "photo pixels", width, height, tabIndex: 0, role: "img", aria: { label: `${name}: ${width} by ${height} pixels` },
  });
  const note = status(`The model sees ${width} × ${height} pixels. Choose an image, drop one here, or paste it.`);
  let ready = false;
  const take = decoding((image, bytes, file) => {
    note.say(image ? null : notTaken(file));
    if (!image) return;
    fit(canvas, image, "black");
    ready = true;
    changed();
  });
  const chooser = takesFiles(canvas, name, take);
  const beside = make("div", { class: "beside" }, note.node, chooser, camera(take));
  const part = async () => ({ codec: name, data: canvas.toDataURL("image/png").split(",")[1] });
  return { node: make("div", { class: "image-input" }, canvas, beside), part, ready: () => ready };
}

// Draws an image into a canvas, whole and in the middle.
function fit(canvas, image, ground) {
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  const scale = Math.min(width / image.width, height / image.height);
  const [w, h] = [image.width * scale, image.height * scale];
  context.fillStyle = ground;
  context.fillRect(0, 0, width, height);
  context.drawImage(image, (width - w) / 2, (height - h) / 2, w, h);
  return context;
}

// An image of a size that the server does not tell, such as a line of print, is sent as it is.
function fileInput(codec, changed) {
  const { name } = codec;
  const canvas = make("canvas", { class: "given", width: 480, height: 96, tabIndex: 0, role: "img", aria: { label: `${name}: an image` } });
  const note = status("Choose an image, drop one here, or paste it.");
  let bytes = null;
  const take = decoding((image, given, file) => {
    const { width, height } = image ?? canvas;
    Object.assign(canvas, { width, height }); // empty now
    if (image) canvas.getContext("2d").drawImage(image, 0, 0);
    // The server may know what it is.
    note.say(image ? null : `This browser cannot show ${file}: it is sent as it is, ${given.length} bytes.`);
    bytes = given;
    changed();
  });
  const chooser = takesFiles(canvas, name, take);
  const beside = make("div", { class: "beside" }, note.node, chooser, camera(take));
  return { node: make("div", { class: "image-input" }, canvas, beside), part: async () => ({ codec: name, data: base64(bytes) }), ready: () => bytes !== null };
}

class Pad {
  constructor(width, height, name, changed) {
    Object.assign(this, { width, height, changed, x: width >> 1, y: height >> 1 });
    this.levels = new Float32Array(width * height); // 0 black to 1 white
    const size = Math.max(1, Math.round(PAD_PX / width));
    this.canvas = make("canvas", {
      class: "pad", width: size * width, height: size * height, tabIndex: 0, role: "img",
      aria: { label: `${name}: ${width} by ${height} pixels to draw on` },
    });
    const drawable = Math.max(width, height) <= MAX_DRAWN;
    if (drawable) this.#listen();
    this.#show();
  }

  clear() {
    this.levels.fill(0);
    this.#show();
    this.changed();
  }

  bytes() {
    return Uint8Array.from(this.levels, (level) => Math.round(255 * level));
  }

  // Fits a picture in, whole and in the middle.
  draw(image, inverted) {
    const { width, height } = this;
    const context = fit(make("canvas", { width, height }), image, inverted ? "white" : "black");
    const { data } = context.getImageData(0, 0, width, height);
    this.levels = this.levels.map((_, n) => {
      const [red, green, blue] = data.subarray(4 * n, 4 * n + 3);
      const level = (0.299 * red + 0.587 * green + 0.114 * blue) / 255;
      return inverted ? 1 - level : level;
    });
    this.#show();
    this.changed();
  }

  #listen() {
    const paintAt = (event) => {
      const box = this.canvas.getBoundingClientRect();
      this.x = Math.floor(((event.clientX - box.left) / box.width) * this.width);
      this.y = Math.floor(((event.clientY - box.top) / box.height) * this.height);
      this.#paint();
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      paintAt(event);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      const between = event.getCoalescedEvents();
      if (event.buttons) (between.length ? between : [event]).forEach(paintAt);
    });
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
    this.canvas.addEventListener("focus", () => this.#show());
    this.canvas.addEventListener("blur", () => this.#show());
  }

  #key(event) {
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
    if (event.key === "Delete" || event.key === "Backspace") this.clear();
    else if (dx || dy) {
      this.x = Math.min(this.width - 1, Math.max(0, this.x + dx));
      this.y = Math.min(this.height - 1, Math.max(0, this.y + dy));
      this.#show();
    } else if (event.key === " ") this.#paint();
    else return;
    event.preventDefault();
  }

  #paint() {
    for (const [dx, dy, share] of BRUSH) {
      const [x, y] = [this.x + dx, this.y + dy];
      if (x < 0 || y < 0 || x >= this.width || y >= this.height) continue;
      const n = y * this.width + x;
      this.levels[n] = Math.max(this.levels[n], share);
    }
    this.#show();
    this.changed();
  }

  #show() {
    const context = this.canvas.getContext("2d");
    const size = this.canvas.width / this.width;
    this.levels.forEach((level, n) => {
      const grey = Math.round(255 * level);
      context.fillStyle = `rgb(${grey} ${grey} ${grey})`;
      context.fillRect((n % this.width) * size, Math.floor(n / this.width) * size, size, size);
    });
    if (document.activeElement === this.canvas && this.canvas.matches(":focus-visible")) {
      context.strokeStyle = "rgb(108 197 203)";
      context.lineWidth = 3;
      context.strokeRect(this.x * size + 1.5, this.y * size + 1.5, size - 3, size - 3);
    }
  }
}

// A chess board: shows a position (FEN), and takes one of its legal moves (as e2e4, e7e8q) by
// pointer or keys. It knows no rules: which moves there are it is told.

import { button, make } from "./dom.js";

const GLYPHS = { k: "♚", q: "♛", r: "♜", b: "♝", n: "♞", p: "♟" };
const NAMES = { k: "king", q: "queen", r: "rook", b: "bishop", n: "knight", p: "pawn" };
const FILES = "abcdefgh";
const TEXT_FORM = "\uFE0E"; // after a glyph: no picture of it

export class Board {
  #moves = [];
  #from = ""; // the square that was chosen
  #isTurned = false;

  constructor({ move }) {
    this.move = move;
    this.squares = new Map();
    this.grid = make("div", { class: "board", role: "grid", aria: { label: "Chess board" }, on: { keydown: (event) => this.#key(event) } });
    this.choice = make("div", { class: "row", role: "group", aria: { label: "Promote to" }, hidden: true });
    this.node = make("div", { class: "board-box" }, this.grid, this.choice);
    this.#lay();
  }

  // moves: the legal ones of whoever may move here; []: nobody may. last: the move before.
  show({ fen, moves = [], last = "", isTurned = false }) {
    if (isTurned !== this.#isTurned) {
      this.#isTurned = isTurned;
      this.#lay();
    }
    this.#moves = moves;
    this.#from = "";
    this.choice.hidden = true;
    const pieces = piecesOf(fen);
    for (const [name, square] of this.squares) {
      const piece = pieces.get(name) ?? "";
      const isWhite = piece !== piece.toLowerCase();
      square.dataset.glyph = piece ? GLYPHS[piece.toLowerCase()] + TEXT_FORM : "";
      square.dataset.piece = piece ? (isWhite ? "white" : "black") : "";
      square.dataset.last = String(Boolean(last) && (last.slice(0, 2) === name || last.slice(2, 4) === name));
      const told = piece ? `${isWhite ? "white" : "black"} ${NAMES[piece.toLowerCase()]}` : "empty";
      square.setAttribute("aria-label", `${name}, ${told}`);
    }
    this.#mark();
  }

  // A move that is made, until the position after it is told; nobody may move meanwhile.
  put(move) {
    const [from, to] = [move.slice(0, 2), move.slice(2, 4)].map((name) => this.squares.get(name));
    this.#moves = [];
    this.#from = "";
    this.#mark();
    for (const key of ["glyph", "piece"]) {
      to.dataset[key] = from.dataset[key];
      from.dataset[key] = "";
    }
    for (const [name, square] of this.squares) square.dataset.last = String([move.slice(0, 2), move.slice(2, 4)].includes(name));
  }

  #lay() {
    const ranks = [8, 7, 6, 5, 4, 3, 2, 1];
    const files = [...FILES];
    if (this.#isTurned) [ranks, files].forEach((each) => each.reverse());
    this.squares.clear();
    const rows = ranks.map((rank) => make("div", { role: "row" }, ...files.map((file) => {
      const name = `${file}${rank}`;
      const isDark = (FILES.indexOf(file) + rank) % 2 === 1;
      const square = make("button", {
        type: "button", role: "gridcell", tabIndex: this.squares.size ? -1 : 0, class: isDark ? "dark" : "light",
        on: { click: () => this.#press(name) },
      });
      square.dataset.square = name;
      square.append(...[file === files[0] && make("span", { class: "rank" }, rank), rank === ranks.at(-1) && make("span", { class: "file" }, file)].filter(Boolean));
      this.squares.set(name, square);
      return square;
    })));
    this.grid.replaceChildren(...rows);
  }

  #press(name) {
    const moves = this.#moves.filter((move) => move.startsWith(this.#from + name));
    if (this.#from && moves.length > 1) return this.#promote(moves);
    if (this.#from && moves.length) return this.move(moves[0]);
    this.#from = name !== this.#from && this.#moves.some((move) => move.startsWith(name)) ? name : "";
    this.#mark();
  }

  #promote(moves) {
    this.choice.replaceChildren(make("span", {}, "Promote to"), ...moves.map((move) => button(NAMES[move[4]] ?? move, () => this.move(move))));
    this.choice.hidden = false;
    this.choice.querySelector("button").focus();
  }

  #mark() {
    this.choice.hidden = true;
    for (const [name, square] of this.squares) {
      const can = this.#from ? this.#moves.some((move) => move.startsWith(this.#from + name)) : false;
      square.dataset.target = String(can);
      square.setAttribute("aria-selected", String(name === this.#from));
    }
  }

  #key(event) {
    const step = { ArrowUp: -8, ArrowDown: 8, ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape" && this.#from) this.#press(this.#from);
    const squares = [...this.squares.values()];
    const at = squares.indexOf(document.activeElement);
    if (!step || at < 0) return;
    event.preventDefault();
    const isAside = Math.abs(step) === 1;
    const next = squares[at + step];
    if (!next || (isAside && Math.floor((at + step) / 8) !== Math.floor(at / 8))) return;
    squares[at].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
}

// square -> its piece, as FEN writes them: white's are capitals.
function piecesOf(fen) {
  const found = new Map();
  fen.split(" ")[0].split("/").forEach((row, n) => {
    let file = 0;
    for (const sign of row) {
      if (/\d/.test(sign)) file += Number(sign);
      else {
        found.set(`${FILES[file]}${8 - n}`, sign);
        file += 1;
      }
    }
  });
  return found;
}

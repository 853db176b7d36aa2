// A small part of Markdown as elements: paragraphs, headings, lists, quotes, rules, code, emphasis.
// Every text becomes a text node. There are no links, no images and no HTML, so whatever a model
// writes can neither run nor ask for anything.

import { make } from "./dom.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/;
const HEADING_END = /(^|\s)#+$/; // marks that a heading may end with: those of C# stay
const ITEM = /^( *)(?:[-*+]|(\d{1,9})[.)])\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const MAX_INLINE_CHARS = 5000; // of a paragraph that is searched for emphasis
const MAX_DEPTH = 6; // of quotes and lists inside each other

export function markdown(text, depth = 0) {
  const lines = text.replaceAll("\r\n", "\n").split("\n");
  const blocks = [];
  for (let place = 0; place < lines.length;) {
    const [node, next] = blockAt(lines, place, depth);
    if (node) blocks.push(node);
    place = next;
  }
  return blocks;
}

// [the block that begins at a line, the line after it]
function blockAt(lines, place, depth) {
  const line = lines[place];
  if (!line.trim()) return [null, place + 1];
  const fence = FENCE.exec(line);
  if (fence) return fenced(lines, place, fence);
  const heading = HEADING.exec(line);
  if (heading) {
    const level = Math.min(6, heading[1].length + 2);
    const title = heading[2].trimEnd().replace(HEADING_END, "").trimEnd();
    return [make(`h${level}`, {}, ...inline(title)), place + 1];
  }
  if (RULE.test(line)) return [make("hr"), place + 1];
  if (depth < MAX_DEPTH && QUOTE.test(line)) {
    const inner = [];
    while (QUOTE.test(lines[place] ?? "")) inner.push(QUOTE.exec(lines[place++])[1]);
    return [make("blockquote", {}, ...markdown(inner.join("\n"), depth + 1)), place];
  }
  if (depth < MAX_DEPTH && ITEM.test(line)) return list(lines, place, depth);
  return paragraph(lines, place, depth);
}

function fenced(lines, place, [, marks, language]) {
  const code = [];
  let next = place + 1;
  while (next < lines.length && lines[next].trim() !== marks) code.push(lines[next++]);
  const label = language ? make("span", { class: "language" }, language) : null;
  return [make("pre", {}, label, make("code", {}, code.join("\n"))), next + 1];
}

function list(lines, place, depth) {
  const first = ITEM.exec(lines[place]);
  const indent = first[1].length;
  const node = first[2] === undefined ? make("ul") : make("ol", { start: Number(first[2]) });
  let next = place;
  while (next < lines.length) {
    const item = ITEM.exec(lines[next]);
    if (!item || item[1].length !== indent || (item[2] === undefined) !== (first[2] === undefined)) break;
    const inner = [item[3]];
    next += 1;
    while (next < lines.length && belongs(lines[next], indent)) {
      inner.push(lines[next++].slice(indent + 1).replace(/^ /, ""));
    }
    node.append(make("li", {}, ...unwrapped(markdown(inner.join("\n"), depth + 1))));
    const after = ITEM.exec(lines[next + 1] ?? "");
    if (!lines[next]?.trim() && after?.[1].length === indent) next += 1; // one empty line between
  }
  return [node, next];
}

// A line that goes on with an item: indented further than its mark.
function belongs(line, indent) {
  return Boolean(line.trim()) && /^ */.exec(line)[0].length > indent + 1;
}

// An item of one paragraph needs no <p>.
function unwrapped(blocks) {
  return blocks.flatMap((block) => (block.tagName === "P" ? [...block.childNodes] : [block]));
}

function paragraph(lines, place, depth) {
  const text = [lines[place]];
  let next = place + 1;
  const begins = (line) => !line.trim() || FENCE.test(line) || HEADING.test(line) || RULE.test(line)
    || (depth < MAX_DEPTH && (QUOTE.test(line) || ITEM.test(line)));
  while (next < lines.length && !begins(lines[next])) text.push(lines[next++]);
  return [make("p", {}, ...inline(text.join("\n"))), next];
}

// Code first, since nothing inside it means anything; then strong, then emphasis. Marks inside words
// and two underscores stay as they are: 2*3*4, __init__.
const CODE = "(`+)([^`]|[^`][^]*?[^`])\\1(?!`)";
const STRONG = "\\*\\*(?=\\S)([^]*?\\S)\\*\\*";
const EMPHASIS = "(?<![\\w*])[*_](?=[^\\s*_])([^*_]*[^\\s*_])[*_](?![\\w*])";
const SPANS = new RegExp(`${CODE}|${STRONG}|${EMPHASIS}`, "g");

function inline(text) {
  if (text.length > MAX_INLINE_CHARS) return [text];
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(SPANS)) {
    if (match.index > end) nodes.push(text.slice(end, match.index));
    if (match[2] !== undefined) nodes.push(make("code", {}, match[2].replace(/^ (.*\S.*) $/s, "$1")));
    else if (match[3] !== undefined) nodes.push(make("strong", {}, match[3]));
    else nodes.push(make("em", {}, match[4]));
    end = match.index + match[0].length;
  }
  if (end < text.length) nodes.push(text.slice(end));
  return nodes;
}

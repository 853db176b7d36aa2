// The request that was last made, as a command and as a program.

import { at, opened } from "./dom.js";

const OPENAI = new Set([
  "model", "messages", "prompt", "temperature", "top_p", "max_tokens", "max_completion_tokens",
  "seed", "stop", "tools", "tool_choice", "response_format", "logprobs", "top_logprobs", "logit_bias",
  "presence_penalty", "frequency_penalty", "n", "stream",
]);

function asCurl(origin, path, body) {
  const data = JSON.stringify(body, null, 2).replaceAll("'", String.raw`'\''`);
  return [
    `curl ${origin}${path} \\`,
    `  -H "Authorization: Bearer $WHORL_API_KEY" \\`,
    `  -H "Content-Type: application/json" \\`,
    `  -d '${data}'`,
  ].join("\n");
}

function asPython(origin, path, body) {
  if (path in OWN_ANSWERS) return posted(origin, path, body);
  const isChat = path.endsWith("/chat/completions");
  const own = Object.entries(body).filter(([name]) => OPENAI.has(name));
  const more = Object.entries(body).filter(([name]) => !OPENAI.has(name));
  const lines = own.map(([name, value]) => `    ${name}=${literal(value, 1)},`);
  if (more.length) lines.push(`    extra_body=${literal(Object.fromEntries(more), 1)},`);
  return [
    "import os",
    "",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${literal(`${origin}/v1`)}, api_key=os.environ["WHORL_API_KEY"])`,
    `answer = client.${isChat ? "chat.completions" : "completions"}.create(`,
    ...lines,
    ")",
    `print(answer.choices[0].${isChat ? "message" : "text"})`,
  ].join("\n");
}

// Routes that OpenAI's client has no method for, and what of their answers is shown.
const OWN_ANSWERS = {
  "/v1/classify": 'answer["data"][0]["label"]',
  "/v1/rank": '[each["candidate"] for each in answer["candidates"]]',
  "/v1/play": '[each["action"] for each in answer["frames"]]',
};

function posted(origin, path, body) {
  return [
    "import os",
    "",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${literal(`${origin}/v1`)}, api_key=os.environ["WHORL_API_KEY"])`,
    `answer = client.post(${literal(path.replace("/v1", ""))}, cast_to=object, body=${literal(body)})`,
    `print(${OWN_ANSWERS[path]})`,
  ].join("\n");
}

// A JSON value as Python writes it.
function literal(value, depth = 0) {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = "    ".repeat(depth + 1);
  const items = Array.isArray(value)
    ? value.map((each) => literal(each, depth + 1))
    : Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${literal(each, depth + 1)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  if (!items.length) return open + close;
  return `${open}\n${items.map((item) => `${inner}${item},\n`).join("")}${"    ".repeat(depth)}${close}`;
}

export function showCode(path, body) {
  const texts = {
    curl: asCurl(location.origin, path, body),
    python: asPython(location.origin, path, body),
  };
  const choose = (language) => {
    at("code").textContent = texts[language];
    for (const each of Object.keys(texts)) {
      at(`code-${each}`).setAttribute("aria-pressed", String(each === language));
    }
    at("code-told").textContent = "";
  };
  at("code-curl").onclick = () => choose("curl");
  at("code-python").onclick = () => choose("python");
  at("code-close").onclick = () => at("code-dialog").close();
  at("code-copy").onclick = async () => {
    at("code-told").textContent = await copied(at("code").textContent);
  };
  choose("curl");
  return opened(at("code-dialog"));
}

// Copies, and says how that went: browsers refuse it to pages without TLS on other machines.
export async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return "Copied.";
  } catch {
    return "This browser lets the page not copy: select the text.";
  }
}

// Requests to this server alone, with the person's key if one was typed.

const KEY = "whorl-api-key"; // in sessionStorage: gone when the tab is closed

class Refused extends Error {
  constructor(message, status = 0, code = "", param = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
  }
}

export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY)),
};

let askForKey = async () => false; // shows the dialog; true: a key was typed
export function whenKeyIsWanted(ask) {
  askForKey = ask;
}

// The response of a request that was taken. Raises Refused, AbortError.
export async function send(path, { body, signal, quiet = false } = {}) {
  for (let tries = 0; ; tries += 1) {
    const response = await once(path, body, signal);
    if (response.ok) return response;
    const refused = await refusal(response);
    if (response.status === 401 && !quiet && tries < 3 && (await askForKey(refused))) continue;
    throw refused;
  }
}

export async function getJson(path, options = {}) {
  return (await send(path, options)).json();
}

async function once(path, body, signal) {
  const headers = {};
  if (apiKey.get()) headers.Authorization = `Bearer ${apiKey.get()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const text = body === undefined ? undefined : JSON.stringify(body);
  const method = body === undefined ? "GET" : "POST";
  try {
    return await fetch(path, { method, headers, body: text, signal, redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server cannot be reached.");
  }
}

async function refusal(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch { /* not ours: the status has to do */ }
  let message = typeof error.message === "string" ? error.message : "";
  message ||= `The server answered ${response.status}.`;
  const wait_s = response.headers.get("Retry-After");
  if (response.status === 429 && wait_s) message += ` (about ${wait_s} s)`;
  return new Refused(message, response.status, error.code ?? "", error.param ?? null);
}

// Server-sent events of a response, parsed.
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value.replaceAll("\r", "")).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const lines = block.split("\n").filter((line) => line.startsWith("data:"));
        const data = lines.map((line) => line.slice(5).trimStart()).join("\n");
        if (data && data !== "[DONE]") yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// An answer piece by piece, the same for chats and completions.
export async function* answerOf(path, body, signal) {
  const streamed = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await send(path, { body: streamed, signal });
  let ended = false;
  for await (const event of events(response.body)) {
    if (event.error) {
      throw new Refused(event.error.message, 500, event.error.code, event.error.param);
    }
    const choice = event.choices?.[0] ?? {};
    const delta = choice.delta ?? {};
    ended ||= Boolean(choice.finish_reason);
    yield {
      id: event.id ?? "",
      text: delta.content ?? choice.text ?? "",
      reasoning: delta.reasoning_content ?? delta.reasoning ?? "",
      toolCalls: delta.tool_calls ?? [],
      tokens: tokensOf(choice.logprobs),
      finish: choice.finish_reason ?? null,
      parts: choice.parts,
      partsError: choice.parts_error,
      usage: event.usage ?? null,
    };
  }
  if (!ended) throw new Refused("The answer broke off: the server closed the connection.");
}

// OpenAI's two forms of log-probabilities as one: [{text, logprob, top: [{text, logprob}]}].
function tokensOf(logprobs) {
  if (!logprobs) return [];
  if (Array.isArray(logprobs.content)) {
    return logprobs.content.map(({ token, logprob, top_logprobs }) => ({
      text: token,
      logprob,
      top: (top_logprobs ?? []).map((each) => ({ text: each.token, logprob: each.logprob })),
    }));
  }
  return (logprobs.tokens ?? []).map((text, place) => ({
    text,
    logprob: logprobs.token_logprobs?.[place] ?? null,
    top: Object.entries(logprobs.top_logprobs?.[place] ?? {})
      .map(([other, logprob]) => ({ text: other, logprob }))
      .sort((a, b) => b.logprob - a.logprob),
  }));
}

"""What vLLM's server documents of `/health` and `/v1/completions`, for a model that counts.

The answer to ids is the last one plus 1, plus 2 …; its log-probability is minus the id over 100,
that of an alternative a tenth less for each place. FAKE_VLLM_LOG has a line for every body.
FAKE_VLLM_OLD does not know `logprob_token_ids`; FAKE_VLLM_NAME is told in place of its own;
with FAKE_VLLM_BEFORE an id's log-probability is less by the id that stands before it.
"""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

OPTIONS = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=False))
VOCABULARY = 512
LOG = os.environ["FAKE_VLLM_LOG"]
STEP_S = 0.01


def logprob(number, before):
    return -number / 100 - (before if os.environ.get("FAKE_VLLM_BEFORE") else 0)


def told(number, count, before, asked=()):
    """What completions say of a token's log-probability, ids in place of texts."""
    own = logprob(number, before)
    best = {f"token_id:{number + i}": own - i / 10 for i in range(count + 1)}
    if asked and not os.environ.get("FAKE_VLLM_OLD"):
        best |= {f"token_id:{i}": logprob(i, before) for i in asked}
    return {
        "tokens": [f"token_id:{number}"],
        "token_logprobs": [own],
        "top_logprobs": [best],
        "text_offset": [0],
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        print(*arguments)

    def do_GET(self):
        if self.path != "/v1/models":
            return self.answer(200 if self.path == "/health" else 404, b"")
        name = os.environ.get("FAKE_VLLM_NAME") or OPTIONS["--served-model-name"]
        self.answer(200, json.dumps({"object": "list", "data": [{"id": name}]}).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open(LOG, "a") as log:
            log.write(json.dumps(body) + "\n")
        if self.headers["Authorization"] != f"Bearer {os.environ['VLLM_API_KEY']}":
            return self.answer(401, b'{"error": "Unauthorized"}')
        if body["seed"] == 400:
            error = {"error": {"message": "seed: not today", "type": "BadRequestError"}}
            return self.answer(400, json.dumps(error).encode())
        if body.get("structured_outputs") == {"regex": "("}:
            error = {"error": {"message": "no regex", "type": "BadRequestError", "code": 400}}
            return self.answer(400, json.dumps(error).encode())
        if body["stream"]:
            return self.stream(body)
        prompt, asked = body["prompt"], body.get("logprob_token_ids", ())
        if prompt[:2] == [7, 13]:
            time.sleep(STEP_S)
            return self.answer(500, b'{"error": {"message": "an unlucky number"}}')
        if prompt[:2] == [7, 14]:
            time.sleep(100 * STEP_S)
        if len(asked) > 128:
            return self.answer(400, b'{"error": {"message": "too many"}}')
        choice = {"index": 0, "logprobs": told(body["allowed_token_ids"][0], 0, prompt[-1], asked)}
        if "prompt_logprobs" in body:
            pairs = zip(prompt[1:], prompt, strict=False)
            scores = [{str(i): {"logprob": logprob(i, before), "rank": 1}} for i, before in pairs]
            choice["prompt_logprobs"] = [None, *scores]
        self.answer(200, json.dumps({"choices": [choice]}).encode())

    def answer(self, status, data):
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for count in range(1, body["max_tokens"] + 1):
            time.sleep(STEP_S)
            number = (body["prompt"][-1] + count) % VOCABULARY
            ends = number in body["stop_token_ids"]
            reason = "stop" if ends else "length" if count == body["max_tokens"] else None
            choice = {"index": 0, "token_ids": [number], "finish_reason": reason, "text": ""}
            if body.get("logprobs") is not None:
                choice["logprobs"] = told(number, body["logprobs"], 0)
            if body["seed"] == 666:
                os._exit(3)
            if body["seed"] == 500:
                self.chunk(json.dumps({"error": {"message": "a stack trace"}}))
                break
            if body.get("structured_outputs") == {"regex": ")"}:
                error = {"message": "no regex", "type": "BadRequestError", "code": 400}
                self.chunk(json.dumps({"error": error}))
                break
            self.chunk(json.dumps({"choices": [choice]}))
            if ends:
                break
        self.chunk("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def chunk(self, text):
        """In two pieces: where a network cuts means nothing."""
        data = f"data: {text}\n\n".encode()
        for part in (data[:7], data[7:]):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.flush()


if __name__ == "__main__":
    with open(LOG, "w") as log:
        log.write(json.dumps({"pid": os.getpid(), "argv": sys.argv[1:]}) + "\n")
    if os.environ.get("FAKE_VLLM_REFUSES"):
        print("loading")
        raise ValueError("PaintModel is no architecture of mine")
    ThreadingHTTPServer(("127.0.0.1", int(OPTIONS["--port"])), Handler).serve_forever()

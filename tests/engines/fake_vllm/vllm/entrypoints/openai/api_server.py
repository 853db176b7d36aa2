"""What vLLM's server documents of `/health` and `/v1/completions`, for a model that counts.

The answer to ids is the last one plus 1, plus 2 …; its log-probability is minus the id over 100,
that of an alternative a tenth less for each place. FAKE_VLLM_LOG has a line for every body.
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


def told(number, count):
    """What completions say of a token's log-probability, ids in place of texts."""
    best = {f"token_id:{number + i}": -number / 100 - i / 10 for i in range(count + 1)}
    return {
        "tokens": [f"token_id:{number}"],
        "token_logprobs": [-number / 100],
        "top_logprobs": [best],
        "text_offset": [0],
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        print(*arguments)

    def do_GET(self):
        self.answer(200 if self.path == "/health" else 404, b"")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open(LOG, "a") as log:
            log.write(json.dumps(body) + "\n")
        if self.headers["Authorization"] != f"Bearer {os.environ['VLLM_API_KEY']}":
            return self.answer(401, b'{"error": "Unauthorized"}')
        if body["seed"] == 400:
            error = {"error": {"message": "seed: not today", "type": "BadRequestError"}}
            return self.answer(400, json.dumps(error).encode())
        if body["stream"]:
            return self.stream(body)
        prompt = body["prompt"]
        scores = [None] + [{str(i): {"logprob": -i / 100, "rank": 1}} for i in prompt[1:]]
        (last,) = body["allowed_token_ids"]
        choice = {"index": 0, "prompt_logprobs": scores, "logprobs": told(last, 0)}
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
                choice["logprobs"] = told(number, body["logprobs"])
            if body["seed"] == 666:
                os._exit(3)
            if body["seed"] == 500:
                self.chunk(json.dumps({"error": {"message": "a stack trace"}}))
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

"""The routes of vLLM's API server that Autotelic uses, over "weights" that are one number in a file.

    python fake_vllm.py MODEL_DIRECTORY CONTROL_DIRECTORY PORT

The log-probability of a sequence's j-th token is minus the number minus j/100. Files in the control directory change
what it does: `fail` (a count: so many chats get status 500), `refuse` (chats get 400, with its text), `die` (the next
chat kills it), `stale` (a reload does nothing), `break` (a reload gets 500), `hold` (chats wait while it exists), `cut`
(a streamed answer breaks off). It writes `held` when a chat waits, and every path that was posted to `calls`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MODEL, CONTROL, PORT = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
STATE = {"value": float((MODEL / "model.safetensors").read_text()), "cached": False}


def _token(alternatives: int) -> dict[str, Any]:
    others = [{"token": token, "logprob": -0.5 - i} for i, token in enumerate(("a", "", "<end>", "b"))]
    return {"token": "a", "logprob": -0.5, "top_logprobs": others[:alternatives]}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, status: int, body: Any = None) -> None:
        data = json.dumps(body).encode() if body is not None else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        allowed = self.headers.get("Authorization") == f"Bearer {os.environ['AUTOTELIC_SERVER_KEY']}"
        self.reply(200 if allowed else 401, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        path = self.path.partition("?")[0]
        with (CONTROL / "calls").open("a") as calls:
            calls.write(path + "\n")
        getattr(self, path.strip("/").replace("/", "_"))(body)

    def v1_chat_completions(self, body: dict[str, Any]) -> None:
        if (CONTROL / "die").exists():
            (CONTROL / "die").unlink()
            os._exit(9)
        if (CONTROL / "refuse").exists():
            return self.reply(400, {"error": (CONTROL / "refuse").read_text()})
        if (count := int((CONTROL / "fail").read_text() if (CONTROL / "fail").exists() else 0)) > 0:
            (CONTROL / "fail").write_text(str(count - 1))
            return self.reply(500, {"error": "broken"})
        before = STATE["value"]
        while (CONTROL / "hold").exists():
            (CONTROL / "held").touch()
            time.sleep(0.005)
        goes_on = body.get("continue_final_message") and not body["add_generation_prompt"]
        begun = body["messages"][-1]["content"] if goes_on else ""
        text = f"{begun}{before} {STATE['value']} {json.dumps(body.get('structured_outputs'))}"
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
                "token_ids": [1, 2, 3],
                "logprobs": {"content": [_token(body.get("top_logprobs", 0))] * 3} if body.get("logprobs") else None,
            }
            for index in range(body.get("n", 1))
        ]
        usage: dict[str, Any] = {
            "prompt_tokens": 7,
            "completion_tokens": 3 * len(choices),
            "total_tokens": 7 + 3 * len(choices),
        }
        usage["prompt_tokens_details"] = {"cached_tokens": 4}
        head = {"id": "x", "object": "chat.completion", "created": 1, "model": body["model"]}
        if body.get("stream"):
            return self.pieces(choices[0], usage)
        return self.reply(200, head | {"choices": choices, "usage": usage})

    def pieces(self, choice: dict[str, Any], usage: dict[str, Any]) -> None:
        text, cut = choice["message"]["content"], (CONTROL / "cut").exists()
        chunks: list[dict[str, Any]] = [
            {"choices": [{"index": 0, "delta": {"content": text[:4]}, "token_ids": [1], "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {"content": text[4:]}, "token_ids": [2, 3], "finish_reason": "stop"}]},
            {"choices": [], "usage": usage},
        ]
        sent = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks[: 1 if cut else None])
        data = sent.encode() + (b"" if cut else b"data: [DONE]\n\n")
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def v1_completions(self, body: dict[str, Any]) -> None:
        choices = []
        for index, ids in enumerate(body["prompt"]):
            rows: list[Any] = [{str(t): {"logprob": -STATE["value"] - j / 100}} for j, t in enumerate(ids)]
            choices.append({"index": index, "text": "", "prompt_logprobs": [None, *rows[1:]]})
        self.reply(200, {"choices": choices})

    def pause(self, _: dict[str, Any]) -> None:
        self.reply(200, {})

    def resume(self, _: dict[str, Any]) -> None:
        self.reply(200, {})

    def reset_prefix_cache(self, _: dict[str, Any]) -> None:
        self.reply(200, {"success": True})

    def collective_rpc(self, body: dict[str, Any]) -> None:
        if (CONTROL / "break").exists():
            return self.reply(500, {"error": "cannot load"})
        if not (CONTROL / "stale").exists():
            STATE["value"] = float((Path(body["kwargs"]["weights_path"]) / "model.safetensors").read_text())
        return self.reply(200, {"results": [None]})


ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()

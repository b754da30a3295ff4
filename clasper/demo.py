"""The story of the demo: governed runs with tools, a streamed one, a structured task, a compaction, a budget that is
exhausted, and the proof of it all.

It talks to a running server over HTTP only, as any backend would, and checks what it shows: `Story.tell` raises
DemoFailed at the first thing that did not really happen.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import httpx
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

TENANT = "harbor-and-pine"
USER = "customer-7"
TASK = "Where is my parcel?"

READ = "Where is my parcel? Please look up order ORD-1002 and tell me what happens next."
REFUND = 'Thanks. Now use tool orders:refund {"order_id": "ORD-1002", "reason": "late"} and confirm.'
STREAMED = "Please write two sentences I can send to the customer."
TICKET = {
    "prompt": "Make a ticket of this message.",
    "input": {"message": 'My parcel "ORD-1002" is late.'},
    "schema": {
        "type": "object",
        "properties": {
            "order_id": {"type": "string"},
            "topic": {"enum": ["late", "lost", "damaged"]},
            "urgent": {"type": "boolean"},
        },
        "required": ["order_id", "topic", "urgent"],
        "additionalProperties": False,
    },
}


class DemoFailed(Exception):
    """Something that should have happened did not."""


@dataclass(slots=True)
class Story:
    """One run of the demo against `url` with the tenant's key `key`; `agent_token` reads the control plane.

    With `scripted` the offline model must do exactly what the messages ask; a real model may decide otherwise, so its
    choices are shown but not checked.
    """

    url: str
    key: str
    daemon_key: str
    agent_token: str
    scripted: bool
    console: Console

    def tell(self) -> None:
        """Runs all chapters. Raises DemoFailed or httpx.HTTPError."""
        self._heading("1. A governed run with a tool that reads")
        first = self._send(READ)
        self._show_answer(READ, first)
        self._check_trace(first, tool="orders:lookup", status="ok")

        self._heading("2. A tool that no skill grants is denied")
        second = self._send(REFUND, history=[(READ, first["response"])])
        self._show_answer(REFUND, second)
        self._check_trace(second, tool="orders:refund", status="denied")

        self._heading("3. The same, streamed")
        third = self._stream(STREAMED)

        self._heading("4. One JSON value, checked against a schema; and the conversation, compacted")
        fourth = self._task()
        fifth = self._compact([(READ, first["response"]), (REFUND, second["response"])])

        self._heading("5. The budget is used up and refuses")
        self._exhaust_budget()

        self._heading("6. What is kept")
        runs = (first, second, third, fourth, fifth)
        self._report([run["trace_id"] for run in runs], third["task_id"])

    # --- Requests --------------------------------------------------------------------------------------------------

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}", "X-Agent-Daemon-Key": self.daemon_key}

    def _body(self, message: str, history: list[tuple[str, str]] | None = None) -> dict[str, Any]:
        return {
            "user_id": USER,
            "session_key": f"user:{USER}:support",
            "message": message,
            "messages": _turns(history or []),
            "task_title": TASK,
        }

    def _send(self, message: str, history: list[tuple[str, str]] | None = None) -> dict[str, Any]:
        return self._post("/api/agents/send", self._body(message, history))

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._request("POST", path, json=body)

    def _request(
        self, method: str, path: str, *, status: int = 200, headers: dict[str, str] | None = None, **content: Any
    ) -> dict[str, Any]:
        response = httpx.request(
            method, f"{self.url}{path}", headers=headers or self._headers(), timeout=150, **content
        )
        returned = f"{method} {path} returned {response.status_code}: {response.text[:500]}"
        _expect(response.status_code == status, returned)
        body: dict[str, Any] = response.json()
        return body

    def _stream(self, message: str) -> dict[str, Any]:
        chunks = 0
        done: dict[str, Any] = {}
        request = httpx.stream(
            "POST", f"{self.url}/api/agents/stream", json=self._body(message), headers=self._headers(), timeout=150
        )
        with request as response:
            _expect(response.status_code == 200, f"the stream answered {response.status_code}")
            for line in response.iter_lines():
                if not line.startswith("data: "):
                    continue
                event = json.loads(line.removeprefix("data: "))
                if event["type"] == "chunk":
                    chunks += 1
                    self.console.print(escape(event["data"]), end="", style="green", highlight=False)
                elif event["type"] == "error":
                    raise DemoFailed(f"the stream ended with {event['code']}: {event['error']}")
                elif event["type"] == "done":
                    done = event
        self.console.print()
        _expect(chunks > 1, "the answer did not arrive in pieces")
        _expect("trace_id" in done, "the stream ended without a done event")
        self.console.print(f"[dim]{chunks} chunks, {_money(done['cost']['totalCost'])}, trace {done['trace_id']}[/]")
        return done

    def _get(self, path: str, **params: Any) -> dict[str, Any]:
        return self._request("GET", path, params=params)

    # --- Chapters --------------------------------------------------------------------------------------------------

    def _show_answer(self, asked: str, answer: dict[str, Any]) -> None:
        self.console.print(f"[bold]customer[/]  {escape(asked)}")
        self.console.print(f"[bold]agent[/]     [green]{escape(answer['response'])}[/]")
        usage, cost = answer["usage"], answer["cost"]
        self.console.print(
            f"[dim]{usage['total_tokens']} tokens, {_money(cost['totalCost'])} ({escape(cost['model'])}), "
            f"trace {answer['trace_id']}[/]"
        )
        _expect(bool(answer["response"].strip()), "the answer is empty")
        _expect(cost["totalCost"] == round(cost["inputCost"] + cost["outputCost"], 9), "the cost does not add up")

    def _check_trace(self, answer: dict[str, Any], *, tool: str, status: str) -> None:
        trace = self._get(f"/traces/{answer['trace_id']}")
        self._show_steps(trace)
        _expect(trace["status"] == "success", f"the trace is {trace['status']}")
        _expect(trace["cost"]["totalCost"] == answer["cost"]["totalCost"], "trace and answer disagree on the cost")
        _expect(bool(trace["message_id"]), "the message did not reach the control plane")
        if self.scripted:
            calls = [(step["tool_name"], step["status"]) for step in trace["steps"] if step["type"] == "tool_call"]
            _expect((tool, status) in calls, f"expected {tool} to be {status}, the trace shows {calls}")

    def _show_steps(self, trace: dict[str, Any]) -> None:
        table = Table(box=None, padding=(0, 2), header_style="dim")
        for column in ("step", "what", "status", "ms", "tokens", "cost"):
            table.add_column(column, justify="right" if column in ("ms", "tokens", "cost") else "left")
        for step in trace["steps"]:
            name = step.get("tool_name") or step.get("model") or step.get("name", "")
            tokens = step.get("prompt_tokens", 0) + step.get("completion_tokens", 0)
            outcome = f"{step['status']}: {step['code']}" if step["status"] == "denied" else step["status"]
            style = "red" if step["status"] != "ok" else None
            row = (step["type"], escape(name), escape(outcome), str(step["duration_ms"]))
            table.add_row(*row, str(tokens or ""), _money(step["cost"]) if "cost" in step else "", style=style)
        self.console.print(table)

    def _task(self) -> dict[str, Any]:
        answer = self._post("/llm-task", TICKET)
        self.console.print(f"[bold]task[/]      [green]{escape(json.dumps(answer['output']))}[/]")
        cost = _money(answer["cost"]["totalCost"])
        self.console.print(f"[dim]validated: {answer['validated']}, {cost}, trace {answer['trace_id']}[/]")
        _expect(answer["validated"] is True or not self.scripted, "the output does not fulfil its schema")
        return answer

    def _compact(self, history: list[tuple[str, str]]) -> dict[str, Any]:
        answer = self._post("/compact", {"messages": _turns(history), "keep_recent": 2})
        summary = answer["compacted_messages"][0]
        self.console.print(f"[bold]summary[/]   [green]{escape(summary['content'])}[/]")
        counts = f"{answer['original_count']} turns became {answer['compacted_count']}"
        self.console.print(f"[dim]{counts}, {_money(answer['cost']['totalCost'])}, trace {answer['trace_id']}[/]")
        _expect(answer["compacted_messages"][1:] == _turns(history)[2:], "the latest turns were not kept")
        return answer

    def _exhaust_budget(self) -> None:
        spent = self._get("/budget")["budget"]["spent"]
        limit = round(spent + 0.000001, 9)
        body = {"tenant_id": TENANT, "limit": limit, "period": "monthly", "soft_limit": limit, "hard_limit": limit}
        self._request("POST", "/budget", json=body, headers={"X-Agent-Daemon-Key": self.daemon_key})
        self.console.print(f"spent {_money(spent)}, hard limit now {_money(limit)}; one more request:")
        error = self._request("POST", "/api/agents/send", json=self._body("One more question."), status=402)
        self.console.print(f"[red]402 {error['code']}[/]  {escape(error['error'])}")
        _expect(self._get("/budget")["budget"]["spent"] == spent, "the refused request cost something")

    def _report(self, trace_ids: list[str], task_id: str) -> None:
        self._report_backend(task_id)
        traces = self._get("/traces")
        usage = self._get("/usage")
        budget = self._get("/budget")["budget"]
        total = sum(trace["total_cost"] for trace in traces["traces"])
        _expect({trace["id"] for trace in traces["traces"]} >= set(trace_ids), "a run has no trace")
        _expect(all(trace["status"] != "running" for trace in traces["traces"]), "a trace is still running")
        _expect(round(total, 9) == usage["totalCost"] == budget["spent"], "the sums disagree")
        self.console.print(
            f"[bold]Sums[/]            traces {_money(total)} = usage {_money(usage['totalCost'])} "
            f"= budget {_money(budget['spent'])}, nothing reserved: {budget['reserved'] == 0}"
        )
        _expect(budget["reserved"] == 0, "money is still reserved")
        self._report_audit()

    def _report_backend(self, task_id: str) -> None:
        headers = {"X-Agent-Token": self.agent_token}
        messages = self._request("GET", f"/api/mission-control/tasks/{task_id}/messages", headers=headers)["items"]
        _expect(len(messages) == 3, f"expected 3 messages at the control plane, found {len(messages)}")
        self.console.print(f"[bold]Control plane[/]   one task {TASK!r} with {len(messages)} messages")

    def _report_audit(self) -> None:
        entries = self._get("/audit", limit=100)
        report = self._get("/audit/verify")
        counts = Counter(entry["event_type"] for entry in entries["entries"])
        listed = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        self.console.print(f"[bold]Audit[/]           {listed}")
        _expect(report["valid"] is True, "the audit chain does not verify")
        _expect("budget.exceeded" in counts and "agent.complete" in counts, "the audit log is incomplete")
        if self.scripted:
            _expect("tool.denied" in counts, "the denied tool is not in the audit log")
        head = entries["entries"][0]
        self.console.print(f"[bold]Chain[/]           verified, {head['seq']} entries, head {head['hash'][:16]}…")

    def _heading(self, text: str) -> None:
        self.console.print()
        self.console.print(Panel(text, expand=False, border_style="cyan"))


def _turns(history: list[tuple[str, str]]) -> list[dict[str, str]]:
    """Questions and answers as the turns of a conversation."""
    return [
        turn
        for asked, answered in history
        for turn in ({"role": "user", "content": asked}, {"role": "assistant", "content": answered})
    ]


def _expect(happened: bool, otherwise: str) -> None:
    if not happened:
        raise DemoFailed(otherwise)


def _money(amount: float) -> str:
    return f"${amount:.6f}"

"""Rules of a chat: what is given together, and what has to be JSON."""

from __future__ import annotations

import json

from engine.errors import Problem
from engine.options.jobs import ChatJob


def tools_problem(text: str) -> Problem | None:
    """What is wrong with the text of ``tools``: no JSON, no list of functions, a function without a name."""
    try:
        tools = json.loads(text)
    except ValueError as error:
        line, column = getattr(error, "lineno", 1), getattr(error, "colno", 1)
        facts = {"line": line, "column": column, "detail": getattr(error, "msg", error)}
        return Problem("chat.tools_not_json", "tools", facts)
    for number, tool in enumerate(tools if isinstance(tools, list) else [tools], start=1):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            return Problem("chat.tool_unnamed", "tools", {"number": number})
        if not isinstance(function.get("parameters", {}), dict):
            return Problem("chat.tool_parameters", "tools", {"name": function["name"]})
    return None


def tools_are_functions(job: ChatJob) -> Problem | None:
    return tools_problem(job.tools) if job.tools and job.tools.strip() else None


def compared_with_prompts(job: ChatJob) -> Problem | None:
    return Problem("chat.compare_without_prompts", "prompts") if job.compare and not job.prompts else None


def compared_on_one_base(job: ChatJob) -> Problem | None:
    return Problem("chat.compare_gguf", "compare") if job.compare and job.gguf else None


CHAT_RULES = (tools_are_functions, compared_with_prompts, compared_on_one_base)

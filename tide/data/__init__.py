"""Data: rows of any source, rendered and tokenized; shards of examples on disk; batches.

conversation (rows) <- sources <- mixing; rendering -> tokenize; shards; batches
"""

from tide.data.batches import Collator, LengthBuckets
from tide.data.conversation import (
    Conversation,
    Message,
    Raw,
    Rejected,
    RejectedRow,
    Row,
    TextRow,
    parse_row,
    read_row,
)
from tide.data.files import ScratchFile, file_hash, remove_borrowed, write_whole
from tide.data.mixing import Mixture, mix
from tide.data.rendering import (
    Rendered,
    Span,
    beginning,
    check_chat_template,
    render,
    render_prompt,
    shared_contents,
)
from tide.data.shards import ShardedExamples, write_shard
from tide.data.sources import Source, files_at, open_source
from tide.data.template_arguments import check_template_arguments, template_names
from tide.data.tokenize import TokenizedText, tokenize_rendered

__all__ = [
    "Collator",
    "Conversation",
    "LengthBuckets",
    "Message",
    "Mixture",
    "Raw",
    "Rejected",
    "RejectedRow",
    "Rendered",
    "Row",
    "ScratchFile",
    "ShardedExamples",
    "Source",
    "Span",
    "TextRow",
    "TokenizedText",
    "beginning",
    "check_chat_template",
    "check_template_arguments",
    "file_hash",
    "files_at",
    "mix",
    "open_source",
    "parse_row",
    "read_row",
    "remove_borrowed",
    "render",
    "render_prompt",
    "shared_contents",
    "template_names",
    "tokenize_rendered",
    "write_shard",
    "write_whole",
]

"""Conversations: prompt formats, think modes, and a `Chat` that keeps its state between turns."""
from rwkv_edge.chat.choose import choose_format
from rwkv_edge.chat.conversation import Chat
from rwkv_edge.chat.formats import FORMATS, ChatFormat, ThinkMode
from rwkv_edge.chat.interface import Format
from rwkv_edge.chat.messages import Message
from rwkv_edge.chat.reply import Reply
from rwkv_edge.chat.thinking import Piece

__all__ = ["FORMATS", "Chat", "ChatFormat", "Format", "Message", "Piece", "Reply", "ThinkMode", "choose_format"]

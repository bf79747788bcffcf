"""A text stream inside asyncio: the event loop goes on while the model runs."""
import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from rwkv_edge.text.generation import TextStream


async def pieces_of(stream: TextStream) -> AsyncIterator[str]:
    """The pieces of `stream`, each computed in a thread when it is asked for.

    However the iteration ends, cancellation of the task included, the stream is closed and the thread gone: at once, or
    after the run of the model that is under way.
    """
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, "rwkv-edge-stream") as thread:
        running: asyncio.Future[str | None] | None = None
        try:
            while True:
                running = loop.run_in_executor(thread, next, stream, None)
                piece = await asyncio.shield(running)
                if piece is None:
                    return
                yield piece
        finally:
            stream.cancel()
            try:
                if running is not None and not running.done():
                    await asyncio.wait([running])  # here, so that the event loop is not held up by it
            finally:
                stream.close()

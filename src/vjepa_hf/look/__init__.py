"""Look at a video through a model: one self-contained HTML page.

- `clip`: everything that the page shows, as arrays
- `excerpt`: the part of a video that is looked at, and its frames for display
- `page`: the HTML page; `page.html` is its layout and its program
- `parts`: the parts of a saved model, and why some are missing
"""

from .clip import HiddenRegion, Look, look_at
from .page import write_page

__all__ = ["HiddenRegion", "Look", "look_at", "write_page"]

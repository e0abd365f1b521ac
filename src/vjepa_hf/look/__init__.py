"""Look at a video through a model: one self-contained HTML page.

- `clip`: everything that the page shows, as arrays
- `excerpt`: the part of a video that is looked at, and its frames for display
- `moments`: similar moments of a video
- `page`: the HTML page; `page.html` is its layout and its program
- `parts`: the parts of a saved model, and why some are missing
- `regions`: what is hidden from the model, and how well it predicts it
"""

from .clip import Look, look_at
from .page import write_page
from .regions import HiddenRegion

__all__ = ["HiddenRegion", "Look", "look_at", "write_page"]

"""Pictures in a page: each is enlarged by a click, and named by the file it shows."""

from PIL import Image

from sret_jax.evaluation.report.pictures import escaped, picture_uri


def named(name: str, original: str = "") -> str:
    """A file's name, isolated from the direction of the text around it, and a link to the file where that is known."""
    shown = f"<bdi>{escaped(name)}</bdi>"
    return f'<a href="{escaped(original)}">{shown}</a>' if original else shown


class Album:
    """The pictures of one page. A picture is held once: opened, the same element fills the screen."""

    def __init__(self) -> None:
        self._pictures = 0

    def figure(self, image: Image.Image, name: str, caption: str = "", *, original: str = "", kind: str = "") -> str:
        """A figure.

        Args:
          name: of the photograph; shown as text, whatever is in it.
          caption: HTML.
          original: link to the photograph on disk.
          kind: class of the figure.
        """
        self._pictures += 1
        own, alt = f"picture-{self._pictures}", escaped(name)
        return (
            f'<figure class="{kind}"><div class="frame"><div class="view" id="{own}" popover>'
            f'<button popovertarget="{own}" title="{alt}"><img alt="{alt}" loading="lazy" src="{picture_uri(image)}">'
            f"</button><p>{named(name, original)}</p></div></div>"
            f"<figcaption>{caption}</figcaption></figure>"
        )

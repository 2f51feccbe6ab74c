"""How the site shows an approach to a process: as the function that it is, with its code (nbdev's setting `renderer`)."""

import inspect

from nbdev.showdoc import BasicMarkdownRenderer


class Renderer(BasicMarkdownRenderer):
    """nbdev's renderer, but for approaches."""

    def __init__(self, sym, name: str | None = None, title_level: int = 3):
        self.function = sym.function if type(sym).__name__ == "Approach" else None
        if isinstance(sym, type) and type(sym) is not type:  # flax's modules: the signature of their metaclass has names that nobody can resolve
            of_init = inspect.signature(sym.__init__)  # type: ignore[misc]
            sym.__signature__ = of_init.replace(parameters=list(of_init.parameters.values())[1:])  # type: ignore[attr-defined]
        super().__init__(self.function or sym, name, title_level)

    def _repr_markdown_(self) -> str:
        text = super()._repr_markdown_()
        if self.function is None:
            return text
        head = text.split("```python")[0]  # link and title; the code has the signature and the docstring
        return f"{head}```python\n{inspect.getsource(self.function)}```"

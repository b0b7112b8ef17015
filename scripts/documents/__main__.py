"""./scripts/docs"""

from documents import configuration, parts

parts.rewrite()
configuration.rewrite()

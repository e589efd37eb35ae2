"""Start, stop or look at a real Apache Kafka broker on this machine, for trying things and for tests.

Needs Python 3.10+, Java 17+ and, the first time, Maven, which fetches the jars from Maven Central into
``${XDG_CACHE_HOME:-~/.cache}/ray_reproducer``. On Debian, as root, missing ones are installed.

Rules:

1. A broker belongs to its directory. Its identity is its command line, which names that directory's
   ``server.properties``: so ``stop`` finds it also when ``start`` was killed before it could write anything down.
2. A signal goes to a process file descriptor whose command line was checked after opening it: never to a process that
   got an old number.
3. ``start`` returns when the broker answers a client, or says why not; interrupted, it leaves no broker behind.
4. ``stop`` returns when the process is gone.
"""

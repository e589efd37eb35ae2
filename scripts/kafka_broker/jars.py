"""Java and the jars of a broker: found, or installed and fetched if that is possible."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from kafka_broker.directory import CACHE, locked
from kafka_broker.waiting import KafkaScriptError, run, say

KAFKA_VERSION = "4.3.1"
_DEPENDENCY_PLUGIN_VERSION = "3.8.1"  # asks for Maven 3.6.3 or newer
_JAVA_MINIMUM = 17
_DOWNLOAD_ATTEMPTS = 3
_POM = Path(__file__).resolve().parent / "pom.xml"


def find_java() -> str:
    """Return a Java that is new enough, installing one if need be and possible.

    Raises:
        KafkaScriptError: there is none, and it can't be installed from here.
    """
    java, version = _java_and_version()
    if version < _JAVA_MINIMUM:
        found = f" ({java} is Java {version})" if java else ""
        _install_or_say("default-jre-headless", f"Java {_JAVA_MINIMUM} or newer{found}")
        java, version = _java_and_version()
    if version < _JAVA_MINIMUM:
        raise KafkaScriptError(
            f"{java or 'java'} is Java {version}, but the broker needs {_JAVA_MINIMUM} or newer.\n"
            "Install one, and set JAVA_HOME to it."
        )
    return java


def _java_and_version() -> tuple[str, int]:
    """Return the Java that JAVA_HOME or PATH names and its major version; "" and 0 if there is none."""
    home = os.environ.get("JAVA_HOME")
    java = (shutil.which("java", path=f"{home}/bin") if home else None) or shutil.which("java")
    if java is None:
        return "", 0
    match = re.search(r'version "(?:1\.)?(\d+)', run([java, "-version"], what="java -version", timeout_s=60))
    return java, int(match.group(1)) if match else 0


def find_jars() -> Path:
    """Return the directory with the broker's jars, fetching them if need be.

    Raises:
        KafkaScriptError: Maven is missing or can't fetch them.
    """
    home = CACHE / f"kafka-{KAFKA_VERSION}"
    libs = home / "libs"
    with locked("jars"):
        if libs.is_dir():
            return libs
        if shutil.which("mvn") is None:
            _install_or_say("maven", "Maven (mvn)")
        home.mkdir(parents=True, exist_ok=True)
        for left_over in home.glob("libs.*"):  # of a fetch that was killed
            shutil.rmtree(left_over)
        say(f"fetching Kafka {KAFKA_VERSION} from Maven Central (once, about 44 MB) into {libs}")
        partial = Path(tempfile.mkdtemp(prefix="libs.", dir=home))
        try:
            _fetch_jars(partial)
            partial.chmod(0o755)
            partial.rename(libs)  # there whole, or not at all
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return libs


def _fetch_jars(target: Path) -> None:
    """Let Maven copy the jars; a network that stutters is tried again.

    Without ``--update-snapshots`` Maven would remember what it did not find, and not ask again.
    """
    command = ["mvn", "--batch-mode", "--no-transfer-progress", "--update-snapshots", "--file", str(_POM)]
    command += [f"-Dkafka.version={KAFKA_VERSION}", "-DincludeScope=runtime", f"-DoutputDirectory={target}"]
    command += [f"org.apache.maven.plugins:maven-dependency-plugin:{_DEPENDENCY_PLUGIN_VERSION}:copy-dependencies"]
    for attempts_left in reversed(range(_DOWNLOAD_ATTEMPTS)):
        try:
            run(command, what="fetching Kafka's jars", timeout_s=600)
            break
        except KafkaScriptError as error:
            if attempts_left == 0:
                raise
            say(f"{error}\ntrying again")


def _install_or_say(package: str, what: str) -> None:
    """Install a Debian package if we are root on Debian.

    Raises:
        KafkaScriptError: we are not; it says what to install.
    """
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise KafkaScriptError(f"{what} is missing.\nInstall it; on Debian or Ubuntu: sudo apt-get install {package}")
    say(f"installing {package} (apt-get)")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-q"], what="apt-get update", timeout_s=300, env=env)
    install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", package]
    run(install, what=f"installing {package}", timeout_s=1200, env=env)

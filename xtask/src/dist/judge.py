# SPDX-License-Identifier: GPL-2.0-or-later
"""signify's judgement of driver packages: each image by its own signature, each catalog, each image and INF as a member of its
catalog; and none of them with a byte changed. Arguments: the authority to trust (PEM), the folder of packages."""

import io
import pathlib
import re
import sys

# oscrypto 1.3 does not understand the version of an OpenSSL whose last number has two digits.
search = re.search
re.search = lambda pattern, *rest: search(
    pattern.replace(r"\d\.\d\.\d", r"\d+\.\d+\.\d+") if isinstance(pattern, str) else pattern, *rest
)

from signify.authenticode import AuthenticodeFile  # noqa: E402
from signify.x509 import Certificate, CertificateStore  # noqa: E402

authority, packages = sys.argv[1:3]
store = CertificateStore([Certificate.from_pem(pathlib.Path(authority).read_bytes())], trusted=True)


def holds(content, catalog=None):
    try:
        file = AuthenticodeFile.from_stream(io.BytesIO(content), allow_flat=catalog is not None)
        if catalog is not None:
            file.add_catalog(io.BytesIO(catalog))
        kind = "embedded" if catalog is None else "catalog"
        file.verify(signature_types=kind, trusted_certificate_store=store)
        return None
    except Exception as error:
        return repr(error)


looked_at = 0
for catalog_file in sorted(pathlib.Path(packages).glob("*/*.cat")):
    catalog = catalog_file.read_bytes()
    image, inf = (catalog_file.with_suffix(end) for end in (".sys", ".inf"))
    for file, by in ((image, None), (catalog_file, None), (image, catalog), (inf, catalog)):
        content = file.read_bytes()
        what = f"{file.name}{'' if by is None else ' as a member of its catalog'}"
        if (why := holds(content, by)) is not None:
            sys.exit(f"{what} does not hold: {why}")
        changed = bytearray(content)
        # In a catalog the members stand in the first half.
        changed[len(changed) // 8] ^= 0xFF
        if holds(bytes(changed), by) is None:
            sys.exit(f"{what} holds although it was tampered with")
        looked_at += 1
print(looked_at)

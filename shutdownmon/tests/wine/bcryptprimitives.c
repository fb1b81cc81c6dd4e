/*
 * The one function of bcryptprimitives.dll that Rust's standard library needs, for a Wine that is too old to have it.
 * Windows 10 has it; this is for tests under Wine alone.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
typedef unsigned char BYTE;
typedef unsigned long long SIZE_T;
__declspec(dllimport) BYTE SystemFunction036(void *buffer, unsigned long length);

__declspec(dllexport) int ProcessPrng(BYTE *data, SIZE_T length)
{
    while (length != 0) {
        unsigned long part = length > 0x10000 ? 0x10000 : (unsigned long)length;
        if (!SystemFunction036(data, part))
            return 0;
        data += part;
        length -= part;
    }
    return 1;
}

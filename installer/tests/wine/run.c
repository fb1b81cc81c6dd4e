/* Runs the command line that is its first argument, waits for its end, and says its exit code, which a Unix exit code cuts to a
   byte. Nothing lies between the script and the program: no shell, no search for associations.
   SPDX-License-Identifier: GPL-2.0-or-later */
#include <windows.h>
#include <stdio.h>

int wmain(int argc, WCHAR **argv)
{
    STARTUPINFOW start = {sizeof(start)};
    PROCESS_INFORMATION process;
    DWORD code = 0;

    if (argc != 2)
        return 2;
    if (!CreateProcessW(NULL, argv[1], NULL, NULL, FALSE, 0, NULL, NULL, &start, &process)) {
        printf("cannot be started: error %lu\n", GetLastError());
        return 1;
    }
    WaitForSingleObject(process.hProcess, INFINITE);
    GetExitCodeProcess(process.hProcess, &code);
    printf("code %lu\n", code);
    return 0;
}

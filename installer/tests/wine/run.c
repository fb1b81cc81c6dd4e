/* run COMMAND        runs the command line, waits for its end, and says its exit code, which a Unix exit code cuts to a byte.
                      Nothing lies between the script and the program: no shell, no search for associations.
   run hold FILE      opens the file, and lets nobody else do so.
   run busy NAME      has a mutex of that name.
   The last two go on while C:\\held is there, which they make.
   SPDX-License-Identifier: GPL-2.0-or-later */
#include <windows.h>
#include <stdio.h>

static int refuse(const char *what)
{
    printf("%s: error %lu\n", what, GetLastError());
    return 1;
}

static int run(WCHAR *command)
{
    STARTUPINFOW start = {sizeof(start)};
    PROCESS_INFORMATION process;
    DWORD code = 0;

    if (!CreateProcessW(NULL, command, NULL, NULL, FALSE, 0, NULL, NULL, &start, &process))
        return refuse("cannot be started");
    WaitForSingleObject(process.hProcess, INFINITE);
    GetExitCodeProcess(process.hProcess, &code);
    printf("code %lu\n", code);
    return 0;
}

static int keep(HANDLE what)
{
    HANDLE held;

    if (what == NULL || what == INVALID_HANDLE_VALUE)
        return refuse("cannot be held");
    held = CreateFileW(L"C:\\held", GENERIC_WRITE, 0, NULL, CREATE_ALWAYS, 0, NULL);
    if (held == INVALID_HANDLE_VALUE)
        return refuse("C:\\held");
    CloseHandle(held);
    while (GetFileAttributesW(L"C:\\held") != INVALID_FILE_ATTRIBUTES)
        Sleep(100);
    return 0;
}

int wmain(int argc, WCHAR **argv)
{
    if (argc == 2)
        return run(argv[1]);
    if (argc == 3 && !wcscmp(argv[1], L"hold"))
        return keep(CreateFileW(argv[2], GENERIC_READ, 0, NULL, OPEN_EXISTING, 0, NULL));
    if (argc == 3 && !wcscmp(argv[1], L"busy"))
        return keep(CreateMutexW(NULL, FALSE, argv[2]));
    return 2;
}

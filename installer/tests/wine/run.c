/* run COMMAND        runs the command line, waits for its end, and says its exit code, which a Unix exit code cuts to a byte.
                      Nothing lies between the script and the program: no shell, no search for associations.
   run cancel COMMAND the same, and presses "Cancel" of the first window that it shows.
   run limited COMMAND
                      the same, as an administrator who was not elevated: that group is in the token to be denied alone.
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

/* Presses "Cancel" of the dialog of a process, if it is there and ready. */
static BOOL CALLBACK press(HWND window, LPARAM wanted)
{
    DWORD process;

    GetWindowThreadProcessId(window, &process);
    if (process != (DWORD)wanted || !IsWindowVisible(window) || !GetDlgItem(window, IDCANCEL))
        return TRUE;
    printf("cancelled\n");
    PostMessageW(window, WM_COMMAND, IDCANCEL, 0);
    return FALSE;
}

static int run(WCHAR *command, HANDLE token, BOOL cancel)
{
    STARTUPINFOW start = {sizeof(start)};
    PROCESS_INFORMATION process;
    DWORD code = 0;

    if (!CreateProcessAsUserW(token, NULL, command, NULL, NULL, FALSE, 0, NULL, NULL, &start, &process))
        return refuse("cannot be started");
    while (cancel && WaitForSingleObject(process.hProcess, 200) == WAIT_TIMEOUT)
        cancel = EnumWindows(press, process.dwProcessId);
    WaitForSingleObject(process.hProcess, INFINITE);
    GetExitCodeProcess(process.hProcess, &code);
    printf("code %lu\n", code);
    return 0;
}

static int limited(WCHAR *command, HANDLE own)
{
    BYTE sid[SECURITY_MAX_SID_SIZE];
    DWORD size = sizeof(sid);
    SID_AND_ATTRIBUTES administrators = {sid, 0};
    HANDLE less;

    if (!CreateWellKnownSid(WinBuiltinAdministratorsSid, NULL, sid, &size)
        || !CreateRestrictedToken(own, 0, 1, &administrators, 0, NULL, 0, NULL, &less))
        return refuse("no token");
    return run(command, less, FALSE);
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
    HANDLE own;

    if (!OpenProcessToken(GetCurrentProcess(), TOKEN_ALL_ACCESS, &own))
        return refuse("no token");
    if (argc == 2)
        return run(argv[1], own, FALSE);
    if (argc == 3 && !wcscmp(argv[1], L"cancel"))
        return run(argv[2], own, TRUE);
    if (argc == 3 && !wcscmp(argv[1], L"limited"))
        return limited(argv[2], own);
    if (argc == 3 && !wcscmp(argv[1], L"hold"))
        return keep(CreateFileW(argv[2], GENERIC_READ, 0, NULL, OPEN_EXISTING, 0, NULL));
    if (argc == 3 && !wcscmp(argv[1], L"busy"))
        return keep(CreateMutexW(NULL, FALSE, argv[2]));
    return 2;
}

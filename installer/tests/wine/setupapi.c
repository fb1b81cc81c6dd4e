/* Asks Wine's setupapi and wintrust about driver packages.
   install HARDWARE-ID INF   stages the package and installs it on a new device of that id (-: a driver without a device)
   verify FILE               says what WinVerifyTrust makes of the file's signature, in hexadecimal
   SPDX-License-Identifier: GPL-2.0-or-later */
#include <windows.h>
#include <initguid.h>
#include <newdev.h>
#include <setupapi.h>
#include <softpub.h>
#include <stdio.h>
#include <wintrust.h>

static int failed(const WCHAR *what, const char *step)
{
    printf("%ls: %s: error %#lx\n", what, step, GetLastError());
    return 1;
}

static int install_device(const WCHAR *id, WCHAR *inf)
{
    SP_DEVINFO_DATA device = {sizeof(device)};
    WCHAR class_name[64], ids[200] = {0};
    GUID class;
    BOOL reboot;
    HDEVINFO set;

    if (!SetupDiGetINFClassW(inf, &class, class_name, 64, NULL))
        return failed(inf, "its class");
    if (!SetupCopyOEMInfW(inf, NULL, SPOST_PATH, 0, NULL, 0, NULL, NULL))
        return failed(inf, "staging");
    set = SetupDiCreateDeviceInfoList(&class, NULL);
    if (!SetupDiCreateDeviceInfoW(set, class_name, &class, NULL, NULL, DICD_GENERATE_ID, &device))
        return failed(inf, "a device");
    lstrcpynW(ids, id, 198);
    if (!SetupDiSetDeviceRegistryPropertyW(set, &device, SPDRP_HARDWAREID, (BYTE *)ids, (lstrlenW(ids) + 2) * 2))
        return failed(inf, "the hardware id");
    if (!SetupDiCallClassInstaller(DIF_REGISTERDEVICE, set, &device))
        return failed(inf, "registering the device");
    if (!UpdateDriverForPlugAndPlayDevicesW(NULL, id, inf, INSTALLFLAG_FORCE, &reboot))
        return failed(inf, "installing the driver");
    return 0;
}

static int install_plain(WCHAR *inf)
{
    WCHAR line[MAX_PATH + 32];
    UINT wrong;

    if (SetupOpenInfFileW(inf, NULL, INF_STYLE_WIN4, &wrong) == INVALID_HANDLE_VALUE)
        return failed(inf, "reading");
    if (!SetupCopyOEMInfW(inf, NULL, SPOST_PATH, 0, NULL, 0, NULL, NULL))
        return failed(inf, "staging");
    swprintf(line, MAX_PATH + 32, L"DefaultInstall 132 %ls", inf);
    InstallHinfSectionW(NULL, NULL, line, 0);
    return 0;
}

static int verify(const WCHAR *name)
{
    GUID action = WINTRUST_ACTION_GENERIC_VERIFY_V2;
    WINTRUST_FILE_INFO file = {sizeof(file), name};
    WINTRUST_DATA data = {sizeof(data)};

    data.dwUIChoice = WTD_UI_NONE;
    data.fdwRevocationChecks = WTD_REVOKE_NONE;
    data.dwUnionChoice = WTD_CHOICE_FILE;
    data.pFile = &file;
    printf("%08lx\n", WinVerifyTrust(INVALID_HANDLE_VALUE, &action, &data));
    return 0;
}

int wmain(int argc, WCHAR **argv)
{
    if (argc == 4 && !lstrcmpW(argv[1], L"install"))
        return lstrcmpW(argv[2], L"-") ? install_device(argv[2], argv[3]) : install_plain(argv[3]);
    if (argc == 3 && !lstrcmpW(argv[1], L"verify"))
        return verify(argv[2]);
    return 2;
}

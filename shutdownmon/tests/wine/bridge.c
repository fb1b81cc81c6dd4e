/* bridge PORT is xenpci's device interface, for a Wine that has no xenpci: the interface is registered, and every handle
   that is opened on it is a connection to TCP port PORT of this machine, where xenstored answers.
   A write has to be one whole message, as xenpci wants it; what comes back is a stream of bytes.
   Says "ready" and goes on until it is killed.
   SPDX-License-Identifier: GPL-2.0-or-later */
#include <winsock2.h>
#include <windows.h>
#include <winternl.h>
#include <setupapi.h>
#include <initguid.h>
#include <stdio.h>
#include <string.h>

/* xenbus/src/control.rs has it too. */
DEFINE_GUID(INTERFACE_CLASS, 0x4b9e6c0d, 0x2f67, 0x4b0b, 0x9c, 0x53, 0x0b, 0x1d, 0x3f, 0x1a, 0x6e, 0x21);
DEFINE_GUID(SYSTEM_CLASS, 0x4d36e97d, 0xe325, 0x11ce, 0xbf, 0xc1, 0x08, 0x00, 0x2b, 0xe1, 0x03, 0x18);
#define INSTANCE L"PCI\\VEN_5853&DEV_0001\\0"
#define CLASSES L"System\\CurrentControlSet\\Control\\DeviceClasses\\{4b9e6c0d-2f67-4b0b-9c53-0b1d3f1a6e21}\\"
#define PIPE L"xenpci"

/* xenstore's wire protocol, xen/include/public/io/xs_wire.h: a header of four numbers, the last is the payload's length. */
enum { HEADER = 16, PAYLOAD_MAX = 4096 };
/* Handles that may be open at once. */
enum { HANDLES = 4 };

/* Where xenstored answers. */
static struct sockaddr_in address;

NTSTATUS NTAPI NtCreateSymbolicLinkObject(HANDLE *, ACCESS_MASK, OBJECT_ATTRIBUTES *, UNICODE_STRING *);

static int refuse(const char *what, DWORD error)
{
    printf("bridge: %s: error %lu\n", what, error);
    fflush(stdout);
    return 1;
}

/* Waits for the end of what was started on the pipe; how many bytes it moved, -1 for an error. */
static int ended(HANDLE pipe, BOOL started, OVERLAPPED *overlapped)
{
    DWORD moved = 0;

    if (!started && GetLastError() != ERROR_IO_PENDING)
        return -1;
    return GetOverlappedResult(pipe, overlapped, &moved, TRUE) ? (int)moved : -1;
}

struct connection {
    HANDLE pipe;
    SOCKET store;
};

/* From xenstored to the handle, until one of them ends. */
static DWORD WINAPI replies(void *context)
{
    struct connection *c = context;
    OVERLAPPED overlapped = {.hEvent = CreateEventW(NULL, TRUE, FALSE, NULL)};
    char bytes[HEADER + PAYLOAD_MAX];
    int count;

    while ((count = recv(c->store, bytes, sizeof(bytes), 0)) > 0)
        if (ended(c->pipe, WriteFile(c->pipe, bytes, count, NULL, &overlapped), &overlapped) != count)
            break;
    /* What waits on the handle fails. */
    DisconnectNamedPipe(c->pipe);
    CloseHandle(overlapped.hEvent);
    return 0;
}

/* From the handle to xenstored, until one of them ends. */
static void requests(struct connection *c, OVERLAPPED *overlapped)
{
    char bytes[HEADER + PAYLOAD_MAX];
    DWORD payload;

    for (;;) {
        int count = ended(c->pipe, ReadFile(c->pipe, bytes, sizeof(bytes), NULL, overlapped), overlapped);

        if (count < 0) {
            if (GetLastError() == ERROR_MORE_DATA)
                refuse("a write that is longer than any message", ERROR_MORE_DATA);
            return;
        }
        if (count >= HEADER)
            memcpy(&payload, bytes + 12, sizeof(payload));
        if (count < HEADER || payload != (DWORD)count - HEADER) {
            refuse("a write that is not one message", ERROR_INVALID_PARAMETER);
            return;
        }
        if (send(c->store, bytes, count, 0) != count)
            return;
    }
}

/* One handle after the other. */
static DWORD WINAPI handles(void *pipe)
{
    OVERLAPPED overlapped = {.hEvent = CreateEventW(NULL, TRUE, FALSE, NULL)};

    for (;;) {
        struct connection c = {pipe, socket(AF_INET, SOCK_STREAM, 0)};
        BOOL connected = ConnectNamedPipe(pipe, &overlapped) || GetLastError() == ERROR_PIPE_CONNECTED;
        HANDLE other;

        if (!connected && ended(pipe, FALSE, &overlapped) < 0)
            return refuse("a handle", GetLastError());
        if (connect(c.store, (struct sockaddr *)&address, sizeof(address)))
            return refuse("xenstored", WSAGetLastError());
        other = CreateThread(NULL, 0, replies, &c, 0, NULL);
        requests(&c, &overlapped);
        shutdown(c.store, SD_BOTH);
        WaitForSingleObject(other, INFINITE);
        CloseHandle(other);
        closesocket(c.store);
    }
}

/* Registers the interface and has its path lead to the pipe. */
static int announce(void)
{
    static WCHAR name[256], key[512], link_path[512];
    union {
        SP_DEVICE_INTERFACE_DETAIL_DATA_W data;
        BYTE space[1024];
    } detail;
    HDEVINFO set = SetupDiCreateDeviceInfoList(NULL, NULL);
    SP_DEVINFO_DATA device = {.cbSize = sizeof(device)};
    SP_DEVICE_INTERFACE_DATA found = {.cbSize = sizeof(found)};
    UNICODE_STRING link_text, target;
    OBJECT_ATTRIBUTES attributes;
    HANDLE link;
    DWORD one = 1;
    LSTATUS status;
    WCHAR *c;

    detail.data.cbSize = sizeof(detail.data);
    if (!SetupDiCreateDeviceInfoW(set, INSTANCE, &SYSTEM_CLASS, NULL, NULL, 0, &device)
        || !SetupDiRegisterDeviceInfo(set, &device, 0, NULL, NULL, NULL)
        || !SetupDiCreateDeviceInterfaceW(set, &device, &INTERFACE_CLASS, NULL, 0, &found)
        || !SetupDiGetDeviceInterfaceDetailW(set, &found, &detail.data, sizeof(detail), NULL, NULL))
        return refuse("the device interface", GetLastError());
    /* As a driver's IoSetDeviceInterfaceState does. */
    lstrcpynW(name, detail.data.DevicePath, 256);
    for (c = name; *c; c++)
        if (*c == '\\')
            *c = '#';
    wsprintfW(key, L"%s%s\\#\\Control", CLASSES, name);
    status = RegSetKeyValueW(HKEY_LOCAL_MACHINE, key, L"Linked", REG_DWORD, &one, sizeof(one));
    if (status)
        return refuse("that the interface is there", status);
    wsprintfW(link_path, L"\\??\\%s", detail.data.DevicePath + 4);
    RtlInitUnicodeString(&link_text, link_path);
    RtlInitUnicodeString(&target, L"\\Device\\NamedPipe\\" PIPE);
    InitializeObjectAttributes(&attributes, &link_text, OBJ_CASE_INSENSITIVE, NULL, NULL);
    /* It is there as long as this handle is. */
    status = NtCreateSymbolicLinkObject(&link, GENERIC_ALL, &attributes, &target);
    return status ? refuse("the symbolic link", status) : 0;
}

int wmain(int argc, WCHAR **argv)
{
    HANDLE threads[HANDLES];
    WSADATA data;
    int i;

    if (argc != 2)
        return 2;
    address.sin_family = AF_INET;
    address.sin_port = htons(_wtoi(argv[1]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (WSAStartup(MAKEWORD(2, 2), &data) || announce())
        return 1;
    for (i = 0; i < HANDLES; i++) {
        HANDLE pipe = CreateNamedPipeW(L"\\\\.\\pipe\\" PIPE, PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED,
                                       PIPE_TYPE_MESSAGE | PIPE_READMODE_MESSAGE, HANDLES, 65536, 65536, 0, NULL);

        if (pipe == INVALID_HANDLE_VALUE)
            return refuse("the pipe", GetLastError());
        threads[i] = CreateThread(NULL, 0, handles, pipe, 0, NULL);
    }
    printf("ready\n");
    fflush(stdout);
    /* A thread that ends has said why. */
    WaitForMultipleObjects(HANDLES, threads, FALSE, INFINITE);
    return 1;
}

using System.Runtime.InteropServices;

namespace Bunraku.Network.Slirp;

/// <summary>
/// The functions of libslirp that we call, found when the first user-mode network is made: the library is the distribution's and may be missing.
/// libslirp.h of version 4.7; all of it is there since 4.0, but for <see cref="AddHostForward"/>, since 4.5.
/// </summary>
internal sealed unsafe class LibslirpFunctions
{
    private const string Library = "libslirp.so.0";

    /// <exception cref="NetworkException">The library is missing, or is too old.</exception>
    public LibslirpFunctions()
    {
        if (!NativeLibrary.TryLoad(Library, out nint library))
        {
            throw new NetworkException(
                $"the user-mode network needs the library {Library}, which is not installed; 'apt install libslirp0' does it (libslirp on other systems)");
        }
        New = (delegate* unmanaged<SlirpConfiguration*, SlirpCallbacks*, void*, void*>)Find(library, "slirp_new");
        Cleanup = (delegate* unmanaged<void*, void>)Find(library, "slirp_cleanup");
        PollFill = (delegate* unmanaged<void*, uint*, delegate* unmanaged<int, int, void*, int>, void*, void>)Find(library, "slirp_pollfds_fill");
        PollDone = (delegate* unmanaged<void*, int, delegate* unmanaged<int, void*, int>, void*, void>)Find(library, "slirp_pollfds_poll");
        Input = (delegate* unmanaged<void*, byte*, int, void>)Find(library, "slirp_input");
        AddHostForward = (delegate* unmanaged<void*, byte*, int, byte*, int, int, int>)Find(library, "slirp_add_hostxfwd");
    }

    private static nint Find(nint library, string name) => NativeLibrary.TryGetExport(library, name, out nint address) ? address
        : throw new NetworkException($"the library {Library} of this host is too old: it has no {name}; version 4.5 or later is needed");

    public readonly delegate* unmanaged<SlirpConfiguration*, SlirpCallbacks*, void*, void*> New;
    public readonly delegate* unmanaged<void*, void> Cleanup;
    public readonly delegate* unmanaged<void*, uint*, delegate* unmanaged<int, int, void*, int>, void*, void> PollFill;
    public readonly delegate* unmanaged<void*, int, delegate* unmanaged<int, void*, int>, void*, void> PollDone;
    public readonly delegate* unmanaged<void*, byte*, int, void> Input;
    public readonly delegate* unmanaged<void*, byte*, int, byte*, int, int, int> AddHostForward;
}

/// <summary>struct in6_addr.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct Ip6Address
{
    public uint A, B, C, D;

    public static Ip6Address Of(System.Net.IPAddress address) => MemoryMarshal.Read<Ip6Address>(address.GetAddressBytes());
}

/// <summary>SlirpConfig, version 1. Addresses stand in memory as on the wire.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct SlirpConfiguration
{
    public uint Version;
    public int Restricted;
    public byte Ip4;
    public uint Network, Mask, Host;
    public byte Ip6;
    public Ip6Address Prefix;
    public byte PrefixLength;
    public Ip6Address Host6;
    public byte* HostName, TftpName, TftpPath, BootFile;
    public uint FirstDhcp, NameServer;
    public Ip6Address NameServer6;
    public byte** SearchDomains;
    public byte* Domain;
    public nuint Mtu, Mru;
    public byte NoHostLoopback, Emulation;
}

/// <summary>SlirpCb, as far as version 1 goes.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct SlirpCallbacks
{
    public delegate* unmanaged<byte*, nuint, void*, nint> SendPacket;
    public delegate* unmanaged<byte*, void*, void> GuestError;
    public delegate* unmanaged<void*, long> Clock;
    public delegate* unmanaged<delegate* unmanaged<void*, void>, void*, void*, void*> NewTimer;
    public delegate* unmanaged<void*, void*, void> FreeTimer;
    public delegate* unmanaged<void*, long, void*, void> SetTimer;
    public delegate* unmanaged<int, void*, void> Register, Unregister;
    public delegate* unmanaged<void*, void> Notify;
}

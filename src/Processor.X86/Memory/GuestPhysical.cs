using System.Runtime.CompilerServices;
using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>What lies behind a guest-physical page for one kind of access.</summary>
internal enum PhysicalKind : byte
{
    /// <summary>RAM, and the access is allowed.</summary>
    Ram,
    /// <summary>Nothing but devices, or a write to ROM, which goes to them.</summary>
    Mmio,
    /// <summary>The second stage refuses the access: an exit, and not a fault of the guest.</summary>
    Refused,
}

/// <summary>Where a guest-physical page is in the host.</summary>
internal readonly unsafe struct PhysicalPage
{
    public PhysicalKind Kind { get; init; }
    /// <summary>The page's address behind A20: a multiple of 4096.</summary>
    public ulong Address { get; init; }
    /// <summary>First byte of the page in the host; null unless <see cref="PhysicalKind.Ram"/>.</summary>
    public byte* Host { get; init; }
    /// <summary>Everything that may be done with the page, so that it can be cached.</summary>
    public PageRights Rights { get; init; }
}

/// <summary>
/// The second stage: from guest-physical addresses to host memory. Everything passes here: data, instruction fetch, the paging structures that a walk reads and
/// marks, PDPTEs. A20, RAM, device memory and <see cref="PageRightsTable"/> are its affair, and nobody else's.
/// </summary>
internal sealed unsafe class GuestPhysical(GuestMemory memory)
{
    /// <summary>All ones but bit 20 while the A20 line is masked.</summary>
    private ulong _a20Mask = ulong.MaxValue;
    private volatile bool _a20 = true;

    /// <summary>The A20M# pin. Any thread; in force when <see cref="ApplyA20"/> has said so.</summary>
    public bool A20
    {
        get => _a20;
        set => _a20 = value;
    }

    /// <summary>
    /// Takes over what the pin says. True: the meaning of guest-physical addresses has changed, and nothing that is cached of them is good any more.
    /// </summary>
    public bool ApplyA20()
    {
        ulong mask = _a20 ? ulong.MaxValue : ~(1ul << 20);
        if (mask == _a20Mask) return false;
        _a20Mask = mask;
        return true;
    }

    /// <summary>
    /// Where a byte of RAM is in the host, while nobody has taken rights to anything; null: <see cref="Resolve"/> knows. Short, since a page walk asks for each
    /// of its entries.
    /// </summary>
    /// <param name="address">Becomes what it is behind A20.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public byte* Unwatched(ref ulong address)
    {
        if (memory.Rights.WereTaken) return null;
        address &= _a20Mask;
        byte* page = memory.PagePointer(address);
        return page == null ? null : page + (address & (GuestMemory.PageSize - 1));
    }

    /// <summary>Host address of a page whatever the rights to it are, or null outside RAM; ROM, which cannot be written, is none.</summary>
    public byte* PageOf(ulong address)
    {
        byte* page = memory.PagePointer(address & _a20Mask & ~(GuestMemory.PageSize - 1), out bool isReadOnly);
        return isReadOnly ? null : page;
    }

    /// <summary>Writes to an address behind A20 change nothing.</summary>
    public bool IsReadOnly(ulong address)
    {
        memory.PagePointer(address, out bool isReadOnly);
        return isReadOnly;
    }

    /// <summary>Host address of a byte of RAM or ROM at an address behind A20; null outside.</summary>
    public byte* ReadOnlyPointer(ulong address) =>
        memory.PagePointer(address) is var page && page != null ? page + (address & (GuestMemory.PageSize - 1)) : null;

    /// <summary>What an access meets at a guest-physical address. Any address.</summary>
    /// <param name="wanted">What the access needs; at least one right.</param>
    public PhysicalPage Resolve(ulong address, PageRights wanted)
    {
        ulong page = address & _a20Mask & ~(GuestMemory.PageSize - 1);
        byte* host = memory.PagePointer(page, out bool isReadOnly);
        if (host == null || (isReadOnly && (wanted & PageRights.Write) != 0))
            return new PhysicalPage { Kind = PhysicalKind.Mmio, Address = page, Rights = PageRights.All };
        PageRights rights = memory.Rights[(ulong)(host - memory.Backing.Pointer)];
        if ((wanted & ~rights) != 0) return new PhysicalPage { Kind = PhysicalKind.Refused, Address = page, Rights = rights };
        if (isReadOnly) rights &= ~PageRights.Write;
        return new PhysicalPage { Kind = PhysicalKind.Ram, Address = page, Host = host, Rights = rights };
    }
}

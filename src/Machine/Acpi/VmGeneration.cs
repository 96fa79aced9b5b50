using System.Buffers.Binary;
using Bunraku.Engines;
using Bunraku.Hypervisor;

namespace Bunraku.Machine.Acpi;

/// <summary>
/// The VM generation ID: 16 bytes in guest memory that change when the guest goes on from a state from which it may have gone on before, or may again (a
/// restored snapshot, a fork), so that it draws no random number twice. A migrated VM is the same one and keeps its ID.
/// </summary>
/// <remarks>
/// Microsoft, "Virtual Machine Generation ID" (2018), sections "BIOS Requirements" and "ACPI Device": the ID lies in memory that the system does not use, the
/// device has VM_Gen_Counter as _CID and the ID's address in ADDR, and is notified with 80h. The files of fw_cfg are QEMU's, docs/specs/vmgenid.txt. Members
/// are for any thread, unless they say otherwise.
/// </remarks>
public sealed class VmGeneration : IDevice, IStateful<VmGenerationState>
{
    /// <summary>The file that firmware places in memory, and the one in which it tells where the ID lies then.</summary>
    internal const string IdFile = "etc/vmgenid_guid", AddressFile = "etc/vmgenid_addr";

    /// <summary>Where the ID is in its page: firmware that takes the page for an ACPI table finds an empty header.</summary>
    internal const int IdOffset = 40;
    private const int IdLength = 16;

    private readonly GuestMemory _memory;
    private readonly byte[] _page, _address;
    private readonly Action _notify;

    /// <param name="address">Of the ID in guest-physical memory; null: firmware tells.</param>
    /// <param name="notify">Raises the event behind which the guest notifies the device. With <paramref name="lock"/> held.</param>
    internal VmGeneration(GuestMemory memory, Guid id, ulong? address, Action notify, DeviceLock @lock)
    {
        (_memory, _notify, Lock) = (memory, notify, @lock);
        _page = new byte[GuestMemory.PageSize];
        _address = BitConverter.GetBytes(address ?? 0);
        Set(id);
    }

    /// <summary>Held for what the device does.</summary>
    internal DeviceLock Lock { get; }

    /// <summary>For fw_cfg.</summary>
    internal byte[] IdPage => _page;

    /// <summary>For fw_cfg; the firmware writes it. 0: it has not yet.</summary>
    internal byte[] AddressOfId => _address;

    /// <inheritdoc/>
    public string Id => "vmgenid";

    /// <summary>What the guest reads.</summary>
    public Guid Current
    {
        get
        {
            lock (Lock) return new Guid(_page.AsSpan(IdOffset, IdLength));
        }
    }

    /// <summary>
    /// Writes another ID into the guest's memory and notifies the guest. To be called before the guest goes on from a state that may go on more than once; the
    /// VM may be paused, and is not in the middle of <see cref="VirtualMachine.Restore(MachineState)"/>.
    /// </summary>
    /// <param name="id">Null: a random one.</param>
    public void Renew(Guid? id = null)
    {
        lock (Lock)
        {
            Set(id ?? Guid.NewGuid());
            WriteId();
            _notify();
        }
    }

    /// <summary>The ID in memory, where its place is known: after a reset it is written anew. The address is the guest's to choose, with firmware.</summary>
    internal void WriteId()
    {
        ulong address = BinaryPrimitives.ReadUInt64LittleEndian(_address);
        if (address != 0) _memory.Write(address, _page.AsSpan(IdOffset, IdLength));
    }

    private void Set(Guid id) => id.TryWriteBytes(_page.AsSpan(IdOffset));

    /// <summary>The ID is not the guest's: it stays.</summary>
    public void Reset()
    {
    }

    VmGenerationState IStateful<VmGenerationState>.Save() => new(_page[IdOffset..(IdOffset + IdLength)]);

    void IStateful<VmGenerationState>.Restore(VmGenerationState state) => StateCheck.Length(state.Generation, IdLength, Id).CopyTo(_page, IdOffset);
}

/// <summary>State of a <see cref="VmGeneration"/>; where the ID lies is in the state of fw_cfg, or in the layout of the board.</summary>
/// <param name="Generation">The ID as it lies in memory.</param>
[StateRecord("vmgenid", version: 1)]
public sealed record VmGenerationState(byte[] Generation);

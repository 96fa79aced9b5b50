using System.Buffers;
using System.Buffers.Binary;
using Bunraku.Machine.Ata;

namespace Bunraku.Machine.Ahci;

// What becomes of a command: taken from the list, carried out, answered.
internal sealed partial class AhciPort
{
    /// <summary>
    /// Takes what was issued: queued commands as they come, others one by one. The device is not asked for more than it may hold in our memory at a time.
    /// </summary>
    private void TakeCommands()
    {
        while (device is not null && Runs && (_issued & ~_underWay) is var waiting && waiting != 0)
        {
            int slot = NextSlot(waiting);
            if (_underWay != 0 && ((_active >> slot & 1) == 0 || (_active & _underWay) != _underWay)) return;
            if (_bytesUnderWay >= AtaDevice.LargestTransfer || _workUnderWay >= MostWork) return; // goes on when some of it is done
            _current = _last = slot;
            int generation = _generation;
            Begin(slot);
            if (generation != _generation) return;
        }
    }

    /// <summary>Round robin, from behind the slot that was taken last; slot 0 is the first after a start (section 5.3.2, "pIssueSlot").</summary>
    private int NextSlot(uint waiting)
    {
        for (int n = 1; n <= Slots; n++)
        {
            int slot = (_last + n) % Slots;
            if ((waiting >> slot & 1) != 0) return slot;
        }
        return _last;
    }

    private void Begin(int slot)
    {
        Span<byte> bytes = stackalloc byte[CommandHeader.Size];
        Span<byte> table = stackalloc byte[CommandTable.PacketOffset + CommandTable.PacketLength];
        ulong at = _commandList + (ulong)(slot * CommandHeader.Size);
        if (!owner.Memory.Read(at, bytes))
        {
            Fail(PortInterrupt.HostBusFatal);
            return;
        }
        const ulong tableAlignment = 127;
        var header = new CommandHeader(BinaryPrimitives.ReadUInt32LittleEndian(bytes),
            BinaryPrimitives.ReadUInt64LittleEndian(bytes[CommandHeader.TableOffset..]) & ~tableAlignment);
        if (!owner.Memory.Read(header.Table, table))
        {
            Fail(PortInterrupt.HostBusFatal);
            return;
        }
        const byte isCommand = 1 << 7;
        if (table[0] != (byte)FisType.HostToDevice || (table[1] & 0xF) != 0)
            Finish(slot, header, AtaResult.Failed(AtaError.Aborted), AtaProtocol.NoData, default);
        else if ((table[1] & isCommand) == 0) ControlFis(slot, header, table[15]);
        else BeginCommand(slot, header, table);
    }

    /// <summary>A FIS that writes the device control register: a software reset has two, with the bit set and clear (section 10.4.1).</summary>
    private void ControlFis(int slot, CommandHeader header, byte control)
    {
        bool set = (control & SoftwareReset) != 0;
        _issued &= ~(1u << slot);
        if (set)
        {
            _softReset = true;
            if (!header.ClearsBusy) _taskFile |= (uint)AtaStatus.Busy;
            return;
        }
        if (!_softReset) return;
        _softReset = false;
        // Commands of before the reset are gone.
        _generation++;
        (_underWay, _active) = (0, 0);
        device!.Reset();
        SendSignature(PortInterrupt.DeviceToHost);
    }

    private void BeginCommand(int slot, CommandHeader header, ReadOnlySpan<byte> table)
    {
        ulong lba = (ulong)table[4] | (ulong)table[5] << 8 | (ulong)table[6] << 16 | (ulong)table[8] << 24 | (ulong)table[9] << 32 | (ulong)table[10] << 40;
        var command = new AtaCommand((AtaOpcode)table[2], (ushort)(table[3] | table[11] << 8), lba, (ushort)(table[12] | table[13] << 8), table[7],
            header.IsAtapi ? table.Slice(CommandTable.PacketOffset, CommandTable.PacketLength).ToArray() : default);
        bool queued = device!.IsQueued(command.Opcode);
        if (queued != ((_active >> slot & 1) != 0) || (queued && command.Count >> 3 != slot))
        {
            Finish(slot, header, AtaResult.Failed(AtaError.Aborted), AtaProtocol.NoData, default);
            return;
        }
        _taskFile = (uint)(queued ? AtaStatus.Idle : AtaStatus.Idle | AtaStatus.Busy);
        AtaPlan plan = device.Plan(command);
        byte[] buffer = ArrayPool<byte>.Shared.Rent(plan.Length);
        Memory<byte> data = buffer.AsMemory(0, plan.Length);
        if (plan.Protocol is AtaProtocol.PioOut or AtaProtocol.DmaOut && MoveData(header, data.Span, toGuest: false) is var problem and not PortInterrupt.None)
        {
            ArrayPool<byte>.Shared.Return(buffer);
            Fail(problem);
            return;
        }
        _underWay |= 1u << slot;
        if (!plan.Waits)
        {
            AtaResult result = plan.Work(data);
            Finish(slot, header, result, plan.Protocol, data.Span);
            ArrayPool<byte>.Shared.Return(buffer);
            return;
        }
        int generation = _generation;
        _bytesUnderWay += data.Length;
        _workUnderWay++;
        Thread!.Post(() =>
        {
            bool does;
            lock (owner.Lock) does = generation == _generation;
            AtaResult result = does ? plan.Work(data) : default;
            lock (owner.Lock)
            {
                _bytesUnderWay -= data.Length;
                _workUnderWay--;
                if (generation == _generation) Finish(slot, header, result, plan.Protocol, data.Span);
                TakeCommands();
                owner.UpdateInterrupts();
            }
            ArrayPool<byte>.Shared.Return(buffer);
        });
    }

    /// <summary>Data, byte count, the device's answer, and the end of the command.</summary>
    private void Finish(int slot, CommandHeader header, AtaResult result, AtaProtocol protocol, ReadOnlySpan<byte> data)
    {
        uint bit = 1u << slot;
        bool queued = (_active & bit) != 0;
        bool input = protocol is AtaProtocol.PioIn or AtaProtocol.DmaIn;
        if (!result.IsError && input && result.Length > 0)
        {
            byte[] moved = ArrayPool<byte>.Shared.Rent(result.Length);
            data[..result.Length].CopyTo(moved);
            PortInterrupt problem = MoveData(header, moved.AsSpan(0, result.Length), toGuest: true);
            ArrayPool<byte>.Shared.Return(moved);
            if (problem != PortInterrupt.None)
            {
                Fail(problem);
                return;
            }
        }
        if (!queued && !owner.Memory.TryWrite(_commandList + (ulong)(slot * CommandHeader.Size + CommandHeader.ByteCountOffset), result.Length))
        {
            Fail(PortInterrupt.HostBusFatal);
            return;
        }
        _underWay &= ~bit;
        if (!result.IsError) _issued &= ~bit;
        if (device is AtapiCompactDisc disc) disc.NoteResult(result);
        if (queued)
        {
            FinishQueued(slot, result);
            return;
        }
        bool packet = device is AtapiCompactDisc && header.IsAtapi;
        if (input && protocol == AtaProtocol.PioIn && !result.IsError) PostPioSetup(result, last: !packet);
        if (protocol != AtaProtocol.PioIn || packet || result.IsError) PostDeviceToHost(result, interrupts: true);
    }

    private void FinishQueued(int slot, AtaResult result)
    {
        uint bit = 1u << slot;
        if (result.IsError) (device as AtaDisk)?.NoteQueuedError(slot, result);
        else _active &= ~bit;
        // The active bits of what has ended are in the FIS; a failure names none.
        Span<byte> fis = stackalloc byte[8];
        fis[0] = (byte)FisType.SetDeviceBits;
        fis[1] = Interrupt;
        fis[2] = (byte)((byte)result.Status & 0x77);
        fis[3] = (byte)result.Error;
        BinaryPrimitives.WriteUInt32LittleEndian(fis[4..], result.IsError ? 0 : bit);
        _taskFile = (uint)result.Status | (uint)(byte)result.Error << 8;
        Post(ReceivedFis.SetDeviceBits, fis, PortInterrupt.SetDeviceBits);
        if (result.IsError) Fail(PortInterrupt.TaskFileError);
    }

    private void PostDeviceToHost(AtaResult result, bool interrupts)
    {
        Span<byte> fis = stackalloc byte[20];
        fis.Clear();
        fis[0] = (byte)FisType.DeviceToHost;
        fis[1] = interrupts ? Interrupt : (byte)0;
        PutRegisters(fis, result);
        _taskFile = (uint)result.Status | (uint)(byte)result.Error << 8;
        Post(ReceivedFis.DeviceToHost, fis, interrupts ? PortInterrupt.DeviceToHost : PortInterrupt.None);
        if (result.IsError) Fail(PortInterrupt.TaskFileError);
    }

    /// <param name="last">No register FIS follows: the status at the end is in this one.</param>
    private void PostPioSetup(AtaResult result, bool last)
    {
        Span<byte> fis = stackalloc byte[20];
        fis.Clear();
        fis[0] = (byte)FisType.PioSetup;
        fis[1] = (byte)(ToHost | (last ? Interrupt : 0));
        PutRegisters(fis, result);
        fis[2] = (byte)(result.Status | AtaStatus.DataRequest);
        fis[15] = (byte)result.Status;
        BinaryPrimitives.WriteUInt16LittleEndian(fis[16..], (ushort)Math.Min(result.Length, AtaDevice.Sector));
        _taskFile = (uint)result.Status;
        Post(ReceivedFis.PioSetup, fis, last ? PortInterrupt.PioSetup : PortInterrupt.None);
    }

    private static void PutRegisters(Span<byte> fis, AtaResult result)
    {
        fis[2] = (byte)result.Status;
        fis[3] = (byte)result.Error;
        for (int n = 0; n < 3; n++)
        {
            fis[4 + n] = (byte)(result.Lba >> 8 * n);
            fis[8 + n] = (byte)(result.Lba >> 8 * (n + 3));
        }
        BinaryPrimitives.WriteUInt16LittleEndian(fis[12..], result.Count);
    }

    /// <summary>A FIS goes to memory while the driver lets it.</summary>
    private void Post(int place, ReadOnlySpan<byte> fis, PortInterrupt interrupt)
    {
        _status |= interrupt;
        if (!_command.HasFlag(PortCommand.FisReceiveEnable)) return;
        if (!owner.Memory.Write(_receivedFis + (ulong)place, fis)) Fail(PortInterrupt.HostBusFatal);
    }

    /// <summary>
    /// Nothing more is done until the driver has stopped the port (section 6.2.2 "Software Error Recovery"): what is under way ends unheard.
    /// </summary>
    private void Fail(PortInterrupt why)
    {
        _status |= why;
        _failed = true;
        _generation++;
        _underWay = 0;
    }

    /// <summary>
    /// Moves data between memory of ours and what the command's physical region descriptors name, in their order. None, or what went wrong.
    /// </summary>
    private PortInterrupt MoveData(CommandHeader header, Span<byte> data, bool toGuest)
    {
        Span<byte> descriptor = stackalloc byte[CommandTable.DescriptorSize];
        for (int n = 0; n < header.Descriptors && !data.IsEmpty; n++)
        {
            if (!owner.Memory.Read(header.Table + (ulong)(CommandTable.DescriptorsOffset + n * CommandTable.DescriptorSize), descriptor))
                return PortInterrupt.HostBusFatal;
            ulong address = BinaryPrimitives.ReadUInt64LittleEndian(descriptor) & ~1ul;
            uint control = BinaryPrimitives.ReadUInt32LittleEndian(descriptor[12..]);
            int length = (int)Math.Min((control & CommandTable.ByteCountMask | 1) + 1, (uint)data.Length);
            if (!(toGuest ? owner.Memory.Write(address, data[..length]) : owner.Memory.Read(address, data[..length]))) return PortInterrupt.HostBusData;
            if ((control & CommandTable.InterruptOnCompletion) != 0) _status |= PortInterrupt.DescriptorProcessed;
            data = data[length..];
        }
        return data.IsEmpty ? PortInterrupt.None : PortInterrupt.Overflow;
    }
}

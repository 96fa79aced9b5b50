using System.Buffers.Binary;
using System.Text;
using Bunraku.Engines;
using Bunraku.Storage;

namespace Bunraku.Machine.Ata;

/// <summary>Sense keys, codes and qualifiers: SPC-4, section 4.5.</summary>
internal readonly record struct Sense(byte Key, byte Code, byte Qualifier)
{
    public static Sense None => default;
    public static Sense NotReady => new(2, 0x3A, 0); // MEDIUM NOT PRESENT
    public static Sense Unreadable => new(3, 0x11, 0);
    public static Sense InvalidCommand => new(5, 0x20, 0);
    public static Sense OutOfRange => new(5, 0x21, 0);
    public static Sense InvalidField => new(5, 0x24, 0);
    public static Sense MayNotRemove => new(5, 0x53, 2);
    /// <summary>UNIT ATTENTION: power on, reset, or bus device reset occurred.</summary>
    public static Sense Reset => new(6, 0x29, 0);
}

/// <summary>
/// A CD or DVD drive behind PACKET: reads an ISO image of one track with sectors of 2048 bytes. Commands of MMC-6 and SPC-4 that operating systems, boot
/// loaders and firmware use; the rest is refused as the specifications say.
/// </summary>
/// <remarks>INCITS 522 ACS-3, PACKET feature set (4.3); MMC-6 (INCITS 468-2010); SPC-4 (INCITS 513-2015).</remarks>
internal sealed class AtapiCompactDisc : AtaDevice
{
    public const int Block = 2048, PacketLength = 12;
    private const uint MostCdBlocks = 80 * 60 * 75 * 2; // more than what any CD holds is a DVD
    private const int LeadOut = 0xAA, FrameOffset = 150, Frames = 75, Seconds = 60;
    private const ushort CdProfile = 0x0008, DvdProfile = 0x0010;

    private readonly IBlockBackend? _disc;
    private readonly string _serial;
    private Sense _sense = Sense.Reset;
    private bool _locked, _ejected;

    /// <param name="disc">Closed by who opened it; null: the drive is empty.</param>
    public AtapiCompactDisc(IBlockBackend? disc, string serial) => (_disc, _serial) = (disc, serial);

    public override uint Signature => 0xEB14_0101;

    public override bool IsQueued(AtaOpcode opcode) => false;

    private IBlockBackend? Disc => _ejected ? null : _disc;

    private uint Blocks => (uint)Math.Min((_disc!.Length + Block - 1) / Block, uint.MaxValue);

    private bool IsDvd => Disc is not null && Blocks > MostCdBlocks;

    public override void Reset() => (_sense, _locked) = (Sense.Reset, false);

    public override byte[] Save() => [_sense.Key, _sense.Code, _sense.Qualifier, (byte)(_locked ? 1 : 0), (byte)(_ejected ? 1 : 0)];

    public override void Restore(byte[] state)
    {
        if (state.Length != 5) throw new StateFormatException("the saved drive is of another kind");
        _sense = new(state[0], state[1], state[2]);
        (_locked, _ejected) = (state[3] != 0, state[4] != 0);
    }

    public override AtaPlan Plan(AtaCommand c)
    {
        switch (c.Opcode)
        {
            case AtaOpcode.Packet when c.Packet.Length >= PacketLength:
                return Packet(c, c.Packet.Span);
            case AtaOpcode.IdentifyPacket:
                return new(AtaProtocol.PioIn, Sector, Identify);
            case AtaOpcode.Identify or AtaOpcode.ReadSectors:
                // Section 7.12.2: the signature tells the host what it is.
                return new(AtaProtocol.NoData, 0, _ => AtaResult.Failed(AtaError.Aborted, Signature >> 8) with { Count = (ushort)(Signature & 0xFF) });
            case AtaOpcode.DeviceReset or AtaOpcode.Diagnostic:
                return new(AtaProtocol.NoData, 0, _ => new AtaResult(0, (AtaError)1, Signature >> 8, (ushort)(Signature & 0xFF), 0));
            case AtaOpcode.CheckPowerMode:
                return new(AtaProtocol.NoData, 0, _ => AtaResult.Good(count: 0xFF));
            case AtaOpcode.SetFeatures when (c.Features & 0xFF) == 0x03:
            case AtaOpcode.Standby or AtaOpcode.StandbyImmediate or AtaOpcode.Idle or AtaOpcode.IdleImmediate or AtaOpcode.Sleep:
                return AtaPlan.Nothing;
            default:
                return AtaPlan.Refused;
        }
    }

    // ---- PACKET

    /// <summary>Section 7.18: the interrupt reason, in the count field, says "command is over".</summary>
    private const ushort Over = 3;

    private static AtaResult Done(int length = 0) => AtaResult.Good(length, count: Over);

    private AtaResult Refuse(Sense sense)
    {
        _sense = sense;
        return Check(sense);
    }

    private static AtaResult Check(Sense sense) =>
        new(AtaStatus.Idle | AtaStatus.Error, (AtaError)(sense.Key << 4) | (sense.Key == 5 ? AtaError.Aborted : 0), 0, Over, 0);

    private AtaPlan RefusePlan(Sense sense) => new(AtaProtocol.NoData, 0, _ => Refuse(sense));

    /// <summary>A command that answers with bytes: at most as many as it allows.</summary>
    private static AtaPlan Answer(AtaProtocol protocol, int allocation, Func<byte[]> make) => new(protocol, allocation, data =>
    {
        byte[] bytes = make();
        int length = Math.Min(bytes.Length, data.Length);
        bytes.AsSpan(0, length).CopyTo(data.Span);
        return Done(length);
    });

    private AtaPlan Packet(AtaCommand c, ReadOnlySpan<byte> cdb)
    {
        AtaProtocol input = (c.Features & 1) != 0 ? AtaProtocol.DmaIn : AtaProtocol.PioIn;
        var command = (ScsiCommand)cdb[0];
        // A unit attention is told once, before anything but what asks what there is (SPC-4, section 5.14).
        if (_sense == Sense.Reset
            && command is not (ScsiCommand.Inquiry or ScsiCommand.RequestSense or ScsiCommand.GetEventStatus or ScsiCommand.GetConfiguration))
            return new(AtaProtocol.NoData, 0, _ => Check(Sense.Reset));
        if (command != ScsiCommand.RequestSense) _sense = Sense.None;
        if (Disc is null && NeedsDisc(command)) return RefusePlan(Sense.NotReady);
        switch (command)
        {
            case ScsiCommand.TestUnitReady:
                return Ready;
            case ScsiCommand.RequestSense:
                Sense sense = _sense;
                _sense = Sense.None;
                return Answer(input, cdb[4], () => [0x70, 0, sense.Key, 0, 0, 0, 0, 10, 0, 0, 0, 0, sense.Code, sense.Qualifier, 0, 0, 0, 0]);
            case ScsiCommand.Inquiry:
                return (cdb[1] & 1) != 0 ? RefusePlan(Sense.InvalidField) : Answer(input, BinaryPrimitives.ReadUInt16BigEndian(cdb[3..]), Inquiry);
            case ScsiCommand.ModeSense6:
                return ModeSense(input, cdb[2], cdb[4], header: 4);
            case ScsiCommand.ModeSense10:
                return ModeSense(input, cdb[2], BinaryPrimitives.ReadUInt16BigEndian(cdb[7..]), header: 8);
            case ScsiCommand.StartStopUnit:
                return StartStop(cdb[4]);
            case ScsiCommand.PreventAllow:
                _locked = (cdb[4] & 1) != 0;
                return Ready;
            case ScsiCommand.ReadCapacity:
                return Answer(input, 8, () => [.. Big32(Blocks - 1), .. Big32(Block)]);
            case ScsiCommand.Read10:
                return Read(input, BinaryPrimitives.ReadUInt32BigEndian(cdb[2..]), BinaryPrimitives.ReadUInt16BigEndian(cdb[7..]));
            case ScsiCommand.Read12:
                return Read(input, BinaryPrimitives.ReadUInt32BigEndian(cdb[2..]), BinaryPrimitives.ReadUInt32BigEndian(cdb[6..]));
            case ScsiCommand.ReadCd:
                uint blocks = (uint)(cdb[6] << 16 | cdb[7] << 8 | cdb[8]);
                // Any or mode 1 sectors, and of them nothing, or what the user wrote.
                if ((cdb[1] >> 2 & 7) is not (0 or 2) || (cdb[9] & 0xF8) is not (0 or 0x10)) return RefusePlan(Sense.InvalidField);
                return (cdb[9] & 0xF8) == 0 ? Ready : Read(input, BinaryPrimitives.ReadUInt32BigEndian(cdb[2..]), blocks);
            case ScsiCommand.Seek:
                return BinaryPrimitives.ReadUInt32BigEndian(cdb[2..]) < Blocks ? Ready : RefusePlan(Sense.OutOfRange);
            case ScsiCommand.ReadToc:
                int format = (cdb[2] & 0xF) != 0 ? cdb[2] & 0xF : cdb[9] >> 6; // the latter by old drives' specification
                return ReadToc(input, (cdb[1] & 2) != 0, format, cdb[6], BinaryPrimitives.ReadUInt16BigEndian(cdb[7..]));
            case ScsiCommand.GetConfiguration:
                return Configuration(input, cdb[1] & 3, BinaryPrimitives.ReadUInt16BigEndian(cdb[2..]), BinaryPrimitives.ReadUInt16BigEndian(cdb[7..]));
            case ScsiCommand.GetEventStatus:
                return EventStatus(input, (cdb[1] & 1) != 0, cdb[4], BinaryPrimitives.ReadUInt16BigEndian(cdb[7..]));
            case ScsiCommand.ReadDiscInformation:
                // A complete disc, last session complete, one track.
                return Answer(input, BinaryPrimitives.ReadUInt16BigEndian(cdb[7..]), () => [0, 32, 0x0E, 1, 1, 1, 1, 0, .. new byte[26]]);
            case ScsiCommand.ReadTrackInformation:
                return Answer(input, BinaryPrimitives.ReadUInt16BigEndian(cdb[7..]), Track);
            case ScsiCommand.MechanismStatus:
                return Answer(input, BinaryPrimitives.ReadUInt16BigEndian(cdb[8..]), () => [0, (byte)(_ejected ? 0x10 : 0), 0, 0, 0, 0, 0, 0]);
            case ScsiCommand.SetCdSpeed:
                return Ready;
            default:
                return RefusePlan(Sense.InvalidCommand);
        }
    }

    private static AtaPlan Ready => new(AtaProtocol.NoData, 0, _ => Done());

    private static bool NeedsDisc(ScsiCommand command) => command is ScsiCommand.TestUnitReady or ScsiCommand.ReadCapacity or ScsiCommand.Read10
        or ScsiCommand.Read12 or ScsiCommand.ReadCd or ScsiCommand.Seek or ScsiCommand.ReadToc or ScsiCommand.ReadDiscInformation
        or ScsiCommand.ReadTrackInformation;

    private AtaPlan Read(AtaProtocol input, uint lba, uint blocks)
    {
        if (lba > Blocks || blocks > Blocks - lba) return RefusePlan(Sense.OutOfRange);
        if (blocks == 0) return Ready;
        if (blocks > LargestTransfer / Block) return RefusePlan(Sense.InvalidField);
        IBlockBackend disc = Disc!;
        return new(input, (int)blocks * Block, data =>
        {
            try
            {
                ulong at = (ulong)lba * Block;
                int there = (int)Math.Min((ulong)data.Length, disc.Length - at); // an image may end in the middle of a block
                disc.Read(at, data.Span[..there]);
                data.Span[there..].Clear();
                return Done(data.Length);
            }
            catch (IOException)
            {
                return Check(Sense.Unreadable);
            }
        }, Waits: true);
    }

    /// <summary>What failed where the lock is not held becomes the sense that REQUEST SENSE tells.</summary>
    public void NoteResult(AtaResult result)
    {
        if (result.IsError && (byte)result.Error >> 4 == Sense.Unreadable.Key) _sense = Sense.Unreadable;
    }

    private static byte[] Inquiry() =>
    [
        5, 0x80, 5, 2, 31, 0, 0, 0, // CD/DVD, removable, SPC-3, this response format
        .. "BUNRAKU "u8, .. "DVD-ROM         "u8, .. "1.0 "u8,
    ];

    private AtaPlan StartStop(byte action)
    {
        switch (action & 3)
        {
            case 2: // eject
                if (_locked) return RefusePlan(Sense.MayNotRemove);
                _ejected = true;
                return Ready;
            case 3: // load
                _ejected = false;
                return Ready;
            default:
                return Ready;
        }
    }

    /// <summary>The pages of MMC-6, section 7: read error recovery, CD device parameters, capabilities.</summary>
    private AtaPlan ModeSense(AtaProtocol input, byte pageAndControl, int allocation, int header)
    {
        int page = pageAndControl & 0x3F;
        byte[] recovery = [1, 6, 0, 5, 0, 0, 0, 0];
        byte[] capabilities = [0x2A, 18, 0x3B, 0, 0x71, 0x60, (byte)(0x29 | (_locked ? 2 : 0)), 0, 0x0B, 0, 0, 2, 2, 0, 0x0B, 0, 0, 0, 0, 0];
        byte[]? pages = page switch
        {
            0x01 => recovery,
            0x2A => capabilities,
            0x3F => [.. recovery, .. capabilities],
            _ => null,
        };
        if (pages is null || pageAndControl >> 6 == 3) return RefusePlan(Sense.InvalidField); // nothing is saved
        byte[] answer = new byte[header + pages.Length];
        if (header == 4) answer[0] = (byte)(answer.Length - 1);
        else BinaryPrimitives.WriteUInt16BigEndian(answer, (ushort)(answer.Length - 2));
        answer[header == 4 ? 1 : 2] = (byte)(Disc is null ? 0x70 : 0x01); // medium type: none; data
        pages.CopyTo(answer, header);
        return Answer(input, allocation, () => answer);
    }

    /// <summary>MMC-6, section 6.25: one track and the lead-out; the first session; the same as in the lead-in.</summary>
    private AtaPlan ReadToc(AtaProtocol input, bool msf, int format, byte first, int allocation)
    {
        byte[] Address(uint lba)
        {
            if (!msf) return Big32(lba);
            uint frames = lba + FrameOffset;
            return [0, (byte)(frames / Frames / Seconds), (byte)(frames / Frames % Seconds), (byte)(frames % Frames)];
        }
        byte[] Whole(byte[] rest, byte firstNumber, byte lastNumber) => [.. Big16((ushort)(rest.Length + 2)), firstNumber, lastNumber, .. rest];
        const byte data = 0x14; // a data track, Q channel with the position
        switch (format)
        {
            case 0:
                if (first > 1 && first != LeadOut) return RefusePlan(Sense.InvalidField);
                byte[] track = first <= 1 ? [0, data, 1, 0, .. Address(0)] : [];
                return Answer(input, allocation, () => Whole([.. track, 0, data, LeadOut, 0, .. Address(Blocks)], 1, 1));
            case 1:
                return Answer(input, allocation, () => Whole([0, data, 1, 0, .. Address(0)], 1, 1));
            case 2:
                byte[] Point(byte point, byte m, byte s, byte f) => [1, data, 0, point, 0, 0, 0, 0, m, s, f];
                uint end = Blocks + FrameOffset;
                return Answer(input, allocation, () => Whole(
                [
                    .. Point(0xA0, 1, 0, 0), .. Point(0xA1, 1, 0, 0),
                    .. Point(0xA2, (byte)(end / Frames / Seconds), (byte)(end / Frames % Seconds), (byte)(end % Frames)), .. Point(1, 0, 2, 0),
                ], 1, 1));
            default:
                return RefusePlan(Sense.InvalidField);
        }
    }

    private byte[] Track() =>
    [
        0, 34, 1, 1, 0, 4, 1, 0, .. Big32(0), .. Big32(0), .. Big32(0), .. Big32(0), .. Big32(Blocks), .. new byte[8],
    ];

    /// <summary>MMC-6, section 6.6 and chapter 5: profiles, core, morphing, removable medium, random reading, CD and DVD reading.</summary>
    private AtaPlan Configuration(AtaProtocol input, int which, ushort first, int allocation)
    {
        ushort profile = Disc is null ? (ushort)0 : IsDvd ? DvdProfile : CdProfile;
        byte current(bool holds, int version = 0) => (byte)(version << 2 | (holds ? 1 : 0));
        (ushort Number, byte[] Bytes)[] features =
        [
            (0x0000, [0, 0, 3, 8, .. Big16(DvdProfile), current(profile == DvdProfile), 0, .. Big16(CdProfile), current(profile == CdProfile), 0]),
            (0x0001, [0, 1, 0x0B, 8, 0, 0, 0, 7, 1, 0, 0, 0]), // ATAPI; the interface is the eighth
            (0x0002, [0, 2, 7, 4, 2, 0, 0, 0]),
            (0x0003, [0, 3, 0x0B, 4, 0x29, 0, 0, 0]),
            (0x0010, [0, 0x10, current(profile != 0), 8, .. Big32(Block), 0, 16, 0, 0]),
            (0x001E, [0, 0x1E, current(profile == CdProfile, 2), 4, 0, 0, 0, 0]),
            (0x001F, [0, 0x1F, current(profile == DvdProfile), 0]),
        ];
        IEnumerable<(ushort Number, byte[] Bytes)> told = features.Where(f => f.Number >= first && which switch
        {
            0 => true,
            1 => (f.Bytes[2] & 1) != 0,
            _ => f.Number == first,
        });
        byte[] body = [.. told.SelectMany(f => f.Bytes)];
        return Answer(input, allocation, () => [.. Big32((uint)body.Length + 4), 0, 0, .. Big16(profile), .. body]);
    }

    /// <summary>MMC-6, section 6.7: of the media class, whether there is a disc. There are no events, since nobody changes it.</summary>
    private AtaPlan EventStatus(AtaProtocol input, bool polled, byte classes, int allocation)
    {
        const byte media = 1 << 4, mediaClass = 4, nothing = 0x80;
        if (!polled) return RefusePlan(Sense.InvalidField);
        if ((classes & media) == 0) return Answer(input, allocation, () => [0, 2, nothing, media]);
        return Answer(input, allocation, () => [0, 6, mediaClass, media, 0, (byte)(_ejected ? 1 : Disc is null ? 0 : 2), 0, 0]);
    }

    private static byte[] Big16(ushort value) => [(byte)(value >> 8), (byte)value];

    private static byte[] Big32(uint value) => [.. Big16((ushort)(value >> 16)), .. Big16((ushort)value)];

    /// <summary>ACS-3, section 7.13.6.</summary>
    private AtaResult Identify(Memory<byte> data)
    {
        Span<byte> id = data.Span;
        id.Clear();
        PutWord(id, 0, 0x85C0); // ATAPI, CD/DVD, removable, packets of 12 bytes
        PutText(id, 10, 10, _serial);
        PutText(id, 23, 4, "1.0");
        PutText(id, 27, 20, "BUNRAKU DVD-ROM");
        PutWord(id, 49, 0x0F00);
        PutWord(id, 53, 0x0006);
        PutWord(id, 63, 0x0007);
        PutWord(id, 64, 0x0003);
        for (int word = 65; word <= 68; word++) PutWord(id, word, 120);
        PutWord(id, 76, 0x000E);
        PutWord(id, 80, 0x07F0);
        PutWord(id, 82, 0x4210); // NOP, DEVICE RESET, PACKET
        PutWord(id, 83, 0x4000);
        PutWord(id, 84, 0x4000);
        PutWord(id, 85, 0x4210);
        PutWord(id, 87, 0x4000);
        PutWord(id, 88, 0x203F);
        PutWord(id, 222, 0x107F);
        Seal(id);
        return AtaResult.Good(Sector);
    }
}

/// <summary>The commands that the drive knows: MMC-6, chapter 6; SPC-4, chapter 6.</summary>
internal enum ScsiCommand : byte
{
    TestUnitReady = 0x00, RequestSense = 0x03, Inquiry = 0x12, ModeSense6 = 0x1A, StartStopUnit = 0x1B, PreventAllow = 0x1E, ReadCapacity = 0x25, Read10 = 0x28,
    Seek = 0x2B, ReadToc = 0x43, GetConfiguration = 0x46, GetEventStatus = 0x4A, ReadDiscInformation = 0x51, ReadTrackInformation = 0x52, ModeSense10 = 0x5A,
    Read12 = 0xA8, SetCdSpeed = 0xBB, MechanismStatus = 0xBD, ReadCd = 0xBE,
}

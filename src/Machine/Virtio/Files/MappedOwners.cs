using System.Buffers.Text;
using System.Text;
using Bunraku.Platform;

namespace Bunraku.Machine.Virtio.Files;

/// <summary>What the guest sees of a file's kind, permissions and owner.</summary>
/// <param name="Mode">Kind and permissions.</param>
/// <param name="Major">Of a device node: what it stands for.</param>
internal readonly record struct GuestStatus(uint Mode, uint User, uint Group, uint Major = 0, uint Minor = 0)
{
    public uint Kind => Mode & FileBits.Kind;

    /// <summary>A file that is written by others than root, or changes its owner, loses set-user-ID, and set-group-ID where it is meant for programs.</summary>
    public GuestStatus WithoutPrivileges()
    {
        if (Kind != FileBits.Regular) return this;
        uint mode = Mode & ~FileBits.SetUser;
        if ((mode & FileBits.GroupExecutes) != 0) mode &= ~FileBits.SetGroup;
        return this with { Mode = mode };
    }
}

/// <summary>What the guest sees of kind, permissions and owner, and where the guest's changes of these go.</summary>
internal abstract class OwnerPolicy
{
    public static OwnerPolicy For(FileOwners kind) => kind == FileOwners.Host ? new HostOwners() : new MappedOwners();

    /// <summary>What the guest sees.</summary>
    public abstract GuestStatus See(int descriptor, in HostFileStatus status);

    /// <summary>The guest wants to see something else from now on.</summary>
    /// <param name="status">Before.</param>
    /// <param name="seen">Before, from <see cref="See"/>.</param>
    public abstract int Change(int descriptor, in HostFileStatus status, GuestStatus seen, GuestStatus wanted);

    /// <summary>Permissions with which a regular file or a folder is made on the host, before <see cref="Change"/>.</summary>
    public abstract uint FirstMode(GuestStatus wanted);

    /// <summary>The kind of what is made on the host for something that is neither file, folder nor link; 0: it cannot be made.</summary>
    public abstract uint HostKind(uint kind);

    /// <summary>No attribute of that name is the guest's.</summary>
    public static bool IsOurs(ReadOnlySpan<byte> attribute) => attribute.StartsWith("user.bunraku."u8);
}

/// <summary>
/// The files of this process's user are root's in the guest. What the host's file cannot be, or what would make it another user's or give it privileges, stands
/// in an extended attribute; while there is nothing of that kind, there is none.
/// </summary>
/// <remarks>
/// The user keeps the right to read and write the host's file, else the attribute could not be read. A device node, FIFO or socket is an empty regular file.
/// Root of the host, where the user is somebody else, is nobody (65534).
/// </remarks>
internal sealed class MappedOwners : OwnerPolicy
{
    /// <summary>The attribute: mode in octal, user, group, and a device node's major and minor number, with spaces between.</summary>
    public static ReadOnlySpan<byte> Attribute => "user.bunraku.status"u8;

    private const uint Nobody = 65534, OwnFile = 0x180, OwnFolder = 0x1C0;
    private const int LongestText = 64;

    private readonly uint _user = HostProcess.UserId, _group = FolderCalls.GroupId;
    private volatile bool _hasNone; // the file system has no such attributes

    private static uint Map(uint host, uint own) => host == own ? 0 : host == 0 ? Nobody : host;

    /// <summary>What is seen of a file without the attribute.</summary>
    private GuestStatus Plain(in HostFileStatus status) =>
        new(status.Mode, Map(status.Owner, _user), Map(status.Group, _group), status.NodeMajor, status.NodeMinor);

    public override GuestStatus See(int descriptor, in HostFileStatus status)
    {
        GuestStatus plain = Plain(status);
        if (_hasNone || (status.Mode & FileBits.Kind) is not (FileBits.Regular or FileBits.Folder)) return plain;
        Span<byte> text = stackalloc byte[LongestText];
        int errno = FolderCalls.GetAttribute(descriptor, Attribute, text, out int length);
        if (errno == Errno.NotSupported) _hasNone = true;
        return errno == 0 && TryParse(text[..length], status.Mode & FileBits.Kind, out GuestStatus kept) ? kept : plain;
    }

    /// <summary>Another guest, or a person, may have written it.</summary>
    private static bool TryParse(ReadOnlySpan<byte> text, uint hostKind, out GuestStatus status)
    {
        status = default;
        Span<uint> numbers = stackalloc uint[5];
        for (int n = 0; n < numbers.Length; n++)
        {
            int end = n < numbers.Length - 1 ? text.IndexOf((byte)' ') : text.Length;
            if (end <= 0) return false;
            if (n == 0 ? !TryParseOctal(text[..end], out numbers[n]) : !Utf8Parser.TryParse(text[..end], out numbers[n], out int used) || used != end)
                return false;
            text = text[Math.Min(end + 1, text.Length)..];
        }
        status = new(numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]);
        return (numbers[0] & ~(FileBits.Kind | FileBits.All)) == 0 && (hostKind == FileBits.Folder ? status.Kind == FileBits.Folder
            : status.Kind is FileBits.Regular or FileBits.Fifo or FileBits.Socket or FileBits.Character or FileBits.Block);
    }

    private static bool TryParseOctal(ReadOnlySpan<byte> text, out uint value)
    {
        value = 0;
        foreach (byte b in text)
        {
            if (b is < (byte)'0' or > (byte)'7' || value > 0xFFFF) return false;
            value = value << 3 | (uint)(b - '0');
        }
        return true;
    }

    public override uint FirstMode(GuestStatus wanted) => wanted.Kind switch
    {
        FileBits.Folder => wanted.Mode & FileBits.Permissions | OwnFolder,
        FileBits.Regular => wanted.Mode & FileBits.Permissions | OwnFile,
        _ => OwnFile,
    };

    public override uint HostKind(uint kind) => _hasNone ? 0 : FileBits.Regular;

    public override int Change(int descriptor, in HostFileStatus status, GuestStatus seen, GuestStatus wanted)
    {
        uint hostKind = status.Mode & FileBits.Kind;
        // Nobody asks for a link's owner; programs that unpack archives only must not fail.
        if (seen == wanted || hostKind == FileBits.Link) return 0;
        // A device node, FIFO or socket of the host's is another's door: who may use it is not for a guest to say.
        if (hostKind is not (FileBits.Regular or FileBits.Folder)) return Errno.NotPermitted;
        HostFileStatus next = status;
        next.Mode = (ushort)(hostKind | (_hasNone ? wanted.Mode & FileBits.Permissions : FirstMode(wanted)));
        if (next.Mode != status.Mode && FolderCalls.SetMode(descriptor, next.Mode & FileBits.All) is var denied and not 0) return denied;
        if (Plain(next) == wanted)
        {
            int removed = FolderCalls.RemoveAttribute(descriptor, Attribute);
            return removed is Errno.NoData or Errno.NotSupported ? 0 : removed;
        }
        int errno = FolderCalls.SetAttribute(descriptor, Attribute, Encoding.ASCII.GetBytes(
            $"{Convert.ToString(wanted.Mode, 8)} {wanted.User} {wanted.Group} {wanted.Major} {wanted.Minor}"), 0);
        if (errno != Errno.NotSupported) return errno;
        _hasNone = true;
        // Permissions are all that such a file system can have of it.
        next.Mode = (ushort)(hostKind | wanted.Mode & FileBits.Permissions);
        if (Plain(next) != wanted) return Errno.NotPermitted;
        return FolderCalls.SetMode(descriptor, next.Mode & FileBits.All);
    }
}

/// <summary>The host's own numbers. Device nodes are not made: they would be the host's devices.</summary>
internal sealed class HostOwners : OwnerPolicy
{
    public override GuestStatus See(int descriptor, in HostFileStatus status) =>
        new(status.Mode, status.Owner, status.Group, status.NodeMajor, status.NodeMinor);

    public override uint FirstMode(GuestStatus wanted) => wanted.Mode & FileBits.Permissions & 0x1C0; // nobody else's before it has its owner

    public override uint HostKind(uint kind) => kind is FileBits.Fifo or FileBits.Socket or FileBits.Regular ? kind : 0;

    public override int Change(int descriptor, in HostFileStatus status, GuestStatus seen, GuestStatus wanted)
    {
        if (wanted.User != seen.User || wanted.Group != seen.Group)
        {
            int errno = FolderCalls.SetOwner(descriptor, wanted.User, wanted.Group);
            if (errno != 0) return errno;
            // The host takes privileges away with the owner: they are given again where they are wanted.
        }
        else if (wanted.Mode == seen.Mode)
        {
            return 0;
        }
        return seen.Kind == FileBits.Link ? 0 : FolderCalls.SetMode(descriptor, wanted.Mode & FileBits.All);
    }
}
